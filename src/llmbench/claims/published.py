"""Published figures of other benchmarks, with their conditions, compared with comparable measured cells.

Each source has two files in configs/baselines: the meaning of its figures, and the figures. A definition is
converted only if that is exact; a figure known only at second hand is never judged.
"""

from __future__ import annotations

import csv
import enum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from llmbench.spec import configs, sweep, yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from llmbench.results.cells import Measured
    from llmbench.stats.interval import Interval

REPRODUCED_WITHIN = 0.10
"""A figure is reproduced if the whole interval of the ratio is this close to one."""

REPRODUCED = (1 / (1 + REPRODUCED_WITHIN), 1 + REPRODUCED_WITHIN)

IMPLAUSIBLE = "implausible"
"""How the confidence of a figure that cannot be true begins, after its origin."""

WIDTHS = {"bfloat16": 2, "float16": 2, "16-bit": 2, "float32": 4}


class PublishedOutcome(enum.StrEnum):
    """The result of comparing a published figure."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    INCONCLUSIVE = "inconclusive"
    NOT_COMPARABLE = "not comparable"


class PublishedFigure(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One published figure; fields that the source does not state are empty.

    Attributes:
        model: its name in the catalogue; `named` is what the source calls it.
        chips: the known chips that it may be, separated by spaces; empty if not stated.
        engine: the backend that runs the same software, in any version.

    """

    date: str
    model: str
    named: str
    hardware: str
    gpus: str
    chips: str
    software: str
    engine: str
    precision: str
    batch: str
    input_len: str
    output_len: str
    metric: str
    value: str
    confidence: str


class PublishedSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The origin and the meaning of published figures."""

    title: str
    source: str
    definition: str
    second_hand: bool = False


class Conversion(NamedTuple):
    """The exact conversion of a published metric to one of ours: its key and the factor."""

    key: str
    factor: float


CONVERSIONS: Mapping[str, Conversion] = {
    "latency_ms": Conversion("e2e_s", 1e-3),
    "latency_s": Conversion("e2e_s", 1.0),
    "output_tok_s": Conversion("output_tok_s", 1.0),
    "output_tok_s_per_gpu": Conversion("output_tok_s", 1.0),
    "total_output_tok_s": Conversion("output_tok_s", 1.0),
}
"""Exact conversions only. A request rate matches no metric of ours unless all requests have one length and arrive
at once."""


class PublishedComparison(NamedTuple):
    """A published figure and the result of the comparison; `ratio` is measured over published."""

    source: PublishedSource
    figure: PublishedFigure
    outcome: PublishedOutcome
    reason: str
    measured: Measured | None = None
    ratio: Interval | None = None


def comparisons(rows: Sequence[Measured]) -> list[PublishedComparison]:
    """Return every published figure of a model that was measured at full size."""
    models = {row.cell.model for row in rows}
    return [
        _compared(source, figure, [row for row in rows if row.cell.model == figure.model])
        for source, figure in figures()
        if figure.model in models
    ]


def figures() -> Iterator[tuple[PublishedSource, PublishedFigure]]:
    """Yield every published figure with its source."""
    for path in sorted(configs.folder("baselines").glob("*.yaml")):
        source = yaml.read(path, PublishedSource)
        with path.with_suffix(".csv").open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                yield source, msgspec.convert(line, PublishedFigure)


def in_principle(source: PublishedSource, figure: PublishedFigure) -> bool:
    """Return whether a cell could meet all conditions of a figure: one GPU, and an engine that runs here."""
    return not _unusable(source, figure) and bool(figure.engine and figure.gpus == "1")


def _compared(
    source: PublishedSource, figure: PublishedFigure, rows: Sequence[Measured]
) -> PublishedComparison:
    """Compare with the cell that meets the most conditions; the first unmet condition is the reason."""
    if reason := _unusable(source, figure):
        return PublishedComparison(source, figure, PublishedOutcome.NOT_COMPARABLE, reason)
    met = [(_reason(figure, row), row) for row in rows]
    comparable = [row for (_, reason), row in met if not reason]
    if not comparable:
        _, reason = max((candidate for candidate, _ in met), key=lambda candidate: candidate[0])
        return PublishedComparison(source, figure, PublishedOutcome.NOT_COMPARABLE, reason)
    row, conversion = comparable[0], CONVERSIONS[figure.metric]
    ratio = row.figure(conversion.key).times(1 / (conversion.factor * float(figure.value)))
    return PublishedComparison(source, figure, outcome_of(ratio), "", row, ratio)


def outcome_of(ratio: Interval) -> PublishedOutcome:
    """Return whether a ratio of measured to published reproduces a figure."""
    inside = ratio.lies_within(*REPRODUCED)
    if inside is None:
        return PublishedOutcome.INCONCLUSIVE
    return PublishedOutcome.REPRODUCED if inside else PublishedOutcome.NOT_REPRODUCED


def _unusable(source: PublishedSource, figure: PublishedFigure) -> str:
    """Return why a figure cannot be compared with any cell; empty if it can."""
    if source.second_hand:
        return "known only at second hand"
    if IMPLAUSIBLE in figure.confidence:
        return "implausible: faster than the chip can read the model's weights"
    if figure.metric not in CONVERSIONS:
        return f"no exact conversion of {figure.metric}"
    for name in ("batch", "input_len", "output_len"):
        if not getattr(figure, name).isdigit():
            return f"{name} is not stated as one number"
    if not figure.chips:
        return f"the chip ({figure.hardware}) is not stated exactly"
    return "the precision is not stated" if figure.precision not in WIDTHS else ""


def _reason(figure: PublishedFigure, row: Measured) -> tuple[int, str]:
    """Return how many conditions a cell meets, and the first unmet one in words."""
    for number, (fails, words) in enumerate(CONDITIONS):
        if fails(figure, row):
            return number, words(figure, row)
    return len(CONDITIONS), ""


CONDITIONS: tuple[
    tuple[Callable[[PublishedFigure, Measured], bool], Callable[[PublishedFigure, Measured], str]], ...
] = (
    (
        lambda f, row: row.where not in f.chips.split(),
        lambda f, row: f"another chip: measured on {row.where}, published on {f.hardware}",
    ),
    (
        lambda f, row: sweep.gpus_of(row.cell.options, row.machine.gpus) > 1 or f.gpus != "1",
        lambda f, _: f"another number of GPUs: published on {f.hardware}",
    ),
    (
        lambda f, row: row.cell.backend != f.engine,
        lambda f, row: f"another engine: measured with {row.cell.backend}, published with {f.software}",
    ),
    (
        lambda f, row: WIDTHS.get(row.cell.dtype) != WIDTHS[f.precision],
        lambda f, row: f"another precision: {row.cell.dtype} against {f.precision}",
    ),
    (
        lambda f, row: (row.cell.input_len, row.cell.output_len) != (int(f.input_len), int(f.output_len)),
        lambda f, _: f"{f.input_len} in and {f.output_len} out was not measured",
    ),
    (
        lambda f, row: row.cell.batch_size != int(f.batch),
        lambda f, _: f"batch {f.batch} was not measured",
    ),
    (
        lambda f, row: not row.has(CONVERSIONS[f.metric].key),
        lambda f, _: f"{CONVERSIONS[f.metric].key} was not measured",
    ),
)  # fmt: skip
"""The conditions that must agree, the most important first, and the text for an unmet one."""
