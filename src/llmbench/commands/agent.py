"""The `agent` command: a box's end of a sweep that runs elsewhere."""

import sys

from llmbench.errors import SpecError
from llmbench.run import agent


def command() -> None:
    """Measure on this machine for a sweep that runs elsewhere."""
    if sys.stdin is None or sys.stdin.isatty():
        raise SpecError(
            "agent: is started by 'llmbench sweep --places ...', which talks to it; nothing can be typed here."
        )
    agent.main()
