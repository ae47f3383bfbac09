"""What a command says beside its answer: on stderr, because stdout is for the facts."""

import sys

from llmbench.redact import shown


def tell(text: str) -> None:
    """Say what goes on, or what a reader of the answer must know."""
    print(shown(text), file=sys.stderr)
