"""Export of runs for other programs: vLLM's benchmark keys, if definitions are equal, and Parquet.

A number with another definition is not exported: no percentile of too few calls, no request rate without requests.
"""

from __future__ import annotations

import importlib
import io
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from llmbench.errors import LlmbenchError, RunError
from llmbench.results.iterations import iterated
from llmbench.redact import spelled
from llmbench.stats.intervals import percentile
from llmbench.results import table
from llmbench.results.aggregate import Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from llmbench.spec.sweep import Point
    from llmbench.stats.intervals import Reals
    from llmbench.results.store import Log

TIMES = {"ttft": "ttft_s", "tpot": "decode_s", "e2el": "e2e_s"}
"""vLLM's names and our columns, with one row per iteration; tpot is decode over n - 1. Its itl_ms covers all gaps
of all calls, which a row does not have."""

SERVED = {
    "request_ttft_s": ("median_ttft_ms", 1e3),
    "request_tpot_s": ("median_tpot_ms", 1e3),
    "request_itl_s": ("median_itl_ms", 1e3),
    "request_e2e_s": ("median_e2el_ms", 1e3),
    "served_output_tok_s": ("output_throughput", 1.0),
    "served_total_tok_s": ("total_token_throughput", 1.0),
}
"""vLLM's keys and factors for our metrics of a server, which have its definitions."""

SHARES = (0.9, 0.95, 0.99)
"""The percentiles, exported only with ten calls beyond them; a call of a batch is one sample."""


def vllm(log: Log) -> str:
    """Return a JSON list with one object per cell that has a valid session.

    Raises:
        RunError: the run has valid sessions, and no cell has a number for which vLLM has a key.

    """
    tally = Tally(log)
    rows = iterated(log, tally)
    owners = tally.numbers_of_owners()[rows.owners]
    order = np.argsort(owners, kind="stable")
    ends = np.cumsum(np.bincount(owners, minlength=len(tally.cells)))[:-1]
    columns = {word: getattr(rows.columns, column)[order] for word, column in TIMES.items()}
    with np.errstate(divide="ignore", invalid="ignore"):  # n = 1 has no gaps: absent over 0
        columns["tpot"] = columns["tpot"] / (rows.columns.output_len[order] - 1)
    apart = {word: np.split(column, ends) for word, column in columns.items()}
    facts = [
        _object(cell, {word: parts[place] for word, parts in apart.items()})
        for place, cell in enumerate(tally.cells)
        if len(apart["e2el"][place])
        and None not in (cell.batch_size, cell.input_len, cell.output_len)
    ]
    facts += _served(log, tally)
    if not facts and len(tally.numbers_of_owners()):
        raise RunError(
            f"export: no cell of {log.name} has a number that vLLM's benchmarks have a key for; "
            "--format parquet writes every number."
        )
    return spelled(msgspec.json.format(msgspec.json.encode(facts), indent=1).decode()) + "\n"


def _served(log: Log, tally: Tally) -> list[dict[str, Any]]:
    """Return the cells that were measured through a server, in another tool's import."""
    if not log.imported:
        return []
    columns = [
        (*SERVED[one.metric.key], one.middle)
        for one in table.tabulate(log, tally).numbers
        if one.metric.key in SERVED
    ]
    return [
        {
            "model_id": cell.model,
            "backend": cell.backend,
            "in_process": False,
            **{key: value for key, value in cell.options.items() if key in LOAD},
            **numbers,
            "llmbench_cell": cell.id,
        }
        for place, cell in enumerate(tally.cells)
        if (
            numbers := {
                key: float(middle[place]) * factor
                for key, factor, middle in columns
                if np.isfinite(middle[place])
            }
        )
    ]


LOAD = ("max_concurrency", "request_rate")
"""Options of a server's load, which vLLM writes under the same names."""


def parquet(columns: Iterable[tuple[str, Sequence[object]]]) -> bytes:
    """Return the columns of a CSV as Parquet, typed; an absent value is null.

    Raises:
        LlmbenchError: pyarrow is not installed.

    """
    try:
        arrow, write = (importlib.import_module(name) for name in ("pyarrow", "pyarrow.parquet"))
    except ImportError as error:
        raise LlmbenchError(
            "export: Parquet needs pyarrow, which is not installed: pip install 'llmbench[report]'."
        ) from error
    stream = io.BytesIO()
    table = {key: _nulls(values) for key, values in columns}
    write.write_table(arrow.table(table), stream)
    return stream.getvalue()


def _nulls(values: Any) -> list[object]:
    """Return the values of a column, None for a number that is not one; all as text if some are."""
    listed = values.tolist() if hasattr(values, "tolist") else values
    known = [None if value != value else value for value in listed]  # noqa: PLR0124 - NaN
    if not {str} < {*map(type, known)} - {type(None)}:
        return known
    return [None if value is None else str(value) for value in known]


def _object(cell: Point, times: dict[str, Reals]) -> dict[str, Any]:
    calls, whole_s = len(times["e2el"]), float(times["e2el"].sum())
    sequences = calls * (cell.batch_size or 0)
    tokens_in, tokens_out = calls * (cell.prompt_tokens or 0), sequences * (cell.output_len or 0)
    return {
        "model_id": cell.model,
        "backend": cell.backend,
        "in_process": True,  # in-process calls: ttft includes no queue or network
        "max_concurrency": cell.batch_size,
        "completed": sequences,
        "duration": whole_s,
        "total_input_tokens": tokens_in,
        "total_output_tokens": tokens_out,
        "output_throughput": tokens_out / whole_s,
        "total_token_throughput": (tokens_in + tokens_out) / whole_s,
        **{key: value for word, values in times.items() for key, value in _summary(word, values)},
        "llmbench_cell": cell.id,
    }


def _summary(word: str, values: Reals) -> Iterator[tuple[str, float]]:
    """Yield mean, median and the percentiles with enough samples, in milliseconds."""
    known = 1e3 * values[np.isfinite(values)]
    if not len(known):
        return
    yield f"mean_{word}_ms", float(known.mean())
    yield f"median_{word}_ms", float(np.median(known))
    for share in SHARES:
        value = percentile(known.tolist(), share)
        if value is not None:
            yield f"p{share * 100:.0f}_{word}_ms", value
