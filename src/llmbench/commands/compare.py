"""The `compare` command: runs against a baseline, or the parts of one run, with verdicts that know their noise."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from llmbench import compare, report
from llmbench.commands.options import CheckedFormat, Output, completed, tell, without_collection
from llmbench.compare import confounds, sides
from llmbench.errors import ExitCode, SpecError, did_you_mean
from llmbench.machine import calibration, info
from llmbench.report.figures.cells import labels
from llmbench.report.views import compare as views_compare
from llmbench.results import metrics, store, table
from llmbench.results.aggregate import Tally
from llmbench.spec.load import LOAD
from llmbench.spec.sweep import HEADS
from llmbench.stats import effects

BY_HEAD = {head: axis for axis, head in HEADS.items()}

VERDICTS = {
    "slower": effects.Verdict.WORSE,
    "more": effects.Verdict.WORSE,
    "faster": effects.Verdict.BETTER,
    "less": effects.Verdict.BETTER,
    "unclear": effects.Verdict.UNCLEAR,
    "missing": "missing",
}
"""The words of --fail-on; `slower` and `more` are both for the worse."""
NO_GATE = "none"

EXIT_CODES = (
    "Exit codes: 0 if the comparison is decided and no cell has a verdict of --fail-on, 1 if one has, 2 after a "
    "mistake, 3 if the comparison is undecided: cells are missing, or every cell is unclear; 5 if it is refused "
    "because it would mislead. With --fail-on none: 0 if any cell is compared."
)


METRIC, MARGIN, FAIL_ON = "e2e_s", "2%", "slower"
WHOLE = (METRIC, "served_e2e_s", "request_e2e_s")
"""The time of a whole call, by the kind of run: of a batch, of a request to a server, of one as another tool has it."""
Metric = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        autocompletion=completed(lambda: metrics.BY_KEY),
        help=f"Metric to compare. [default: {METRIC}, or the first that all runs have]",
    ),
]
Margin = Annotated[str, typer.Option(help="Treat smaller differences as equal.")]
FailOn = Annotated[
    str,
    typer.Option(
        metavar="VERDICT,...",
        help="Exit 1 if a cell has one of these verdicts: slower or more, faster or less, unclear, missing; "
        "or `none`.",
    ),
]

AllowMissing = Annotated[
    bool,
    typer.Option("--allow-missing", help="Judge the other cells where some have no number."),
]


def command(  # noqa: PLR0913, PLR0917 - one parameter a flag
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="BASELINE [CANDIDATE]...", help="Folders of runs, or one with --by."
        ),
    ],
    metric: Metric = None,
    by: Annotated[
        str | None,
        typer.Option(metavar="FACTOR", help="Compare inside one run: backend, dtype, model, ..."),
    ] = None,
    margin: Margin = MARGIN,
    fail_on: FailOn = FAIL_ON,
    allow_missing: AllowMissing = False,
    cross_machine: Annotated[
        bool,
        typer.Option("--cross-machine", help="Allow runs of machines that are not alike."),
    ] = False,
    cross_server: Annotated[
        bool,
        typer.Option(
            "--cross-server",
            help="Allow a server that was there already against one started for each session.",
        ),
    ] = False,
    format: CheckedFormat = "terminal",
    output: Output = None,
) -> int:
    """Say what is slower, faster or the same, cell by cell."""
    asked_for = metrics.named([metric]) if metric else []
    by = BY_HEAD.get(by or "", by)
    gate = compare.Gate(verdicts(fail_on), allow_missing)
    destination = report.destination("compare", format, output)
    with without_collection():
        runs = counted(runs, by)
        names = labels(runs) if format == "html" else map(str, runs)
        logs = [(name, store.read(run, tell=tell)) for name, run in zip(names, runs, strict=True)]
        tallies = [Tally(log) for _, log in logs]
        chosen = (asked_for or [first_of_all([log for _, log in logs], tallies)])[0]
        read = [
            sides.side(name, log.plan, tally, chosen)
            for (name, log), tally in zip(logs, tallies, strict=True)
        ]
        kept = kept_of(read)
        asked = confounds.CompareOptions(
            chosen,
            share(margin),
            by,
            cross_machine=cross_machine,
            cross_server=cross_server,
            calibration=kept.calibration,
        )
        made = compare.within(read[0], asked) if by else compare.runs(read, asked)
        if not asked_for and chosen.key != METRIC:
            notice = f"Compared by {chosen.key}, the first metric that all runs have; --metric chooses another."
            made = made._replace(notices=(notice, *made.notices))
        if kept.notice:
            made = made._replace(notices=(*made.notices, kept.notice))
        destination.write(views_compare.document(made, logs, gate))
    if all_verdicts(made) & gate.failing:
        return ExitCode.NEGATIVE
    if why := undecided(made, gate=bool(gate.failing), allow_missing=allow_missing):
        tell(f"Undecided (exit code {ExitCode.INCOMPLETE}): {why}")
        return ExitCode.INCOMPLETE
    return ExitCode.DONE


def first_of_all(logs: Sequence[store.Log], tallies: Sequence[Tally]) -> metrics.Metric:
    """Return the usual metric, or the first that every run has if one lacks it: imports and served runs have others.

    Raises:
        SpecError: a run was imported, and no metric is in every run.

    """
    usual = metrics.BY_KEY[METRIC]
    if all(log.plan and all(LOAD not in cell.options for cell in log.plan.cells) for log in logs):
        return usual
    held = [
        {numbers.metric.key for numbers in table.tabulate(log, tally).numbers}
        for log, tally in zip(logs, tallies, strict=True)
    ]
    shared = set.intersection(*held)
    usually = [metrics.BY_KEY[key] for key in WHOLE]
    first = next((m for m in (*usually, *metrics.METRICS) if m.key in shared), None)
    if first or not any(log.imported for log in logs):
        return first or usual
    has = "; ".join(
        f"{log.name} has {', '.join(sorted(keys)) or 'none'}"
        for log, keys in zip(logs, held, strict=True)
    )
    raise SpecError(f"compare: no metric is in every run: {has}.")


def verdicts(text: str) -> frozenset[object]:
    """Return the verdicts that fail, from their words; raise SpecError for a word that is none."""
    words = [word.strip() for word in text.split(",")]
    if words == [NO_GATE]:
        return frozenset()
    for word in words:
        if word not in VERDICTS:
            known = (*VERDICTS, NO_GATE)
            raise SpecError(f"--fail-on: unknown verdict {word!r}.{did_you_mean(word, known)}")
    return frozenset(VERDICTS[word] for word in words)


def share(text: str) -> float:
    """Return a margin as a share: 0.02 from `2%` or `0.02`; raise SpecError for what is none."""
    try:
        value = float(text.removesuffix("%").strip()) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise SpecError(
            f"--margin: {text!r} is not a share between 0 and 1; give one such as 2% or 0.02."
        )
    return value


def counted(runs: list[Path], by: str | None) -> list[Path]:
    """Return the runs if they are as many as can be compared; raise SpecError if not."""
    if by is not None and len(runs) != 1:
        raise SpecError(
            f"--by compares inside one run, and {len(runs)} are given; leave out all but one."
        )
    if by is None and len(runs) < 2:
        raise SpecError(
            "compare: one run is given; add a second, or --by FACTOR to compare inside this one."
        )
    return runs


def all_verdicts(made: compare.Comparison) -> set[object]:
    """Return the verdicts of all cells, `missing` for those without a number in a candidate."""
    seen: set[object] = set()
    for contrast in made.contrasts:
        seen |= {effects.Verdict(verdict) for verdict in contrast.effects.verdict.tolist()}
        seen |= {"missing" for of in contrast.missing if of.lacking == "candidate"}
    return seen


def undecided(made: compare.Comparison, *, gate: bool, allow_missing: bool) -> str:
    """Return why a comparison decides nothing, or not everything that a gate asks; empty if it does."""
    compared = [bool(of.cells) for of in made.contrasts]
    if not (all(compared) if gate else any(compared)):
        return "no cell has a number on both sides."
    if not gate:
        return ""
    for of in made.contrasts:
        if (missing := sum(len(group.cells) for group in of.missing)) and not allow_missing:
            have = "cell has" if missing == 1 else "cells have"
            return f"{missing:,} {have} no comparison with {of.name}; --allow-missing judges the others."
        if (of.effects.verdict == effects.Verdict.UNCLEAR).all():
            return f"every cell of {of.name} is unclear; measure more sessions, or give a larger --margin."
    return ""


def kept_of(read: list[sides.Side]) -> calibration.KeptCalibration:
    """Return the calibration of the machine of all runs; none if they have more than one machine."""
    machines = [side.plan.machine for side in read if side.plan]
    if len({info.identity(facts) for facts in machines}) != 1:
        return calibration.KeptCalibration(None)
    return calibration.kept_calibration(machines[0])
