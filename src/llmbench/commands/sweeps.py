"""The `sweeps` command: the sweeps that come with llmbench."""

from llmbench import report
from llmbench.commands.options import Format, Output
from llmbench.report.views import sweeps as views_sweeps


def command(format: Format = "terminal", output: Output = None) -> None:
    """List the sweeps that come with llmbench."""
    report.destination("sweeps", format, output).write(views_sweeps.every())
