"""Made-up measured cells, as read from a run, for the tests of claims."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from llmbench import claims
from llmbench.claims import Answer, Evidence, Part
from llmbench.cost import prices
from llmbench.models import resolve
from llmbench.results.cells import Machine, Measured
from llmbench.spec.sweep import Cell

if TYPE_CHECKING:
    from llmbench.models.resolve import Model

HOST = Machine("test-cpu", None, 0)
YEAR = "2026-05-01T00:00:00Z"


def spread(middle: float, share: float = 0.01) -> tuple[float, ...]:
    """Return three sessions around a figure; a spread of 1 % gives an interval of about 2.5 %."""
    return (middle / (1 + share), middle, middle * (1 + share))


def row(name: str = "llama-7b", step_s: float = 0.05, **changes: Any) -> Measured:
    """Return a cell with this time per token, a first token ten times as long, and further values."""
    cell: dict[str, Any] = {
        "batch_size": 1, "input_len": 128, "output_len": 16, "backend": "transformers", "options": {},
        "device": "cpu", "dtype": "bfloat16", "load_format": "dummy", "prompts": "synthetic",
    }  # fmt: skip
    cell |= {key: changes.pop(key) for key in list(changes) if key in cell}
    share = changes.pop("share", 0.01)
    found = resolved(name)
    coordinates = f"b{cell['batch_size']}-i{cell['input_len']}-o{cell['output_len']}"
    e2e_s = (10 + cell["output_len"] - 1) * step_s
    timed = {
        "tpot_s": step_s,
        "ttft_s": 10 * step_s,
        "e2e_s": e2e_s,
        "output_tok_s": cell["batch_size"] * cell["output_len"] / e2e_s,
        "decode_tok_s": cell["batch_size"] / step_s,
        **changes.pop("values", {}),
    }
    counted = {key: (value,) for key, value in changes.pop("counted", {}).items()}
    counted |= changes.pop("by_session", {})
    facts: dict[str, Any] = {
        "run": "run", "at": YEAR, "machine": HOST, "bound": {}, "ceilings": "", **changes,
    }  # fmt: skip
    return Measured(
        cell=Cell(id=f"{name}-{coordinates}", model=name, model_digest=found.digest, **cell),
        model=found,
        values={**{key: spread(value, share) for key, value in timed.items()}, **counted},
        **facts,
    )


@functools.cache
def resolved(name: str) -> Model:
    """Return a model of the catalogue, whose file takes 20 ms to read."""
    return resolve.resolve(name)


def asked(name: str, *rows: Measured, usd_per_hour: float | None = None) -> Answer:
    """Return the answer to a claim from these cells."""
    return claims.answer(
        claims.claim(name), Evidence(rows, prices.PriceOptions(usd_per_hour=usd_per_hour))
    )


def only(answer: Answer) -> Part:
    """Return the single part of an answer."""
    [part] = answer.parts
    return part
