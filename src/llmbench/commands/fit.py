"""The `fit` command: the largest batch that fits for each model and length, and how that is known."""

from llmbench import report
from llmbench.commands.options import Format, Output, Run, tell
from llmbench.predict import capacity
from llmbench.report.views import fit as views_fit
from llmbench.results import store


def command(
    run: Run,
    format: Format = "terminal",
    output: Output = None,
) -> None:
    """Show the largest batch that fits, by model and context."""
    destination = report.destination("fit", format, output)
    destination.write(views_fit.document(capacity.fits(store.read(run, tell=tell))))
