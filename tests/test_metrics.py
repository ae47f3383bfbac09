"""Every metric against numbers worked out by hand."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from llmbench.errors import SpecError
from llmbench.redact import redact
from llmbench.results import lines, metrics, sessions
from llmbench.results.record import Memory, Sample
from make_records import make_cell, make_record

if TYPE_CHECKING:
    from llmbench.spec.sweep import Cell

CELL = make_cell(batch_size=2, input_len=8, output_len=3)
MS = 1_000_000


def sample(e2e_ms: float, *rows: list[float], discarded: str | None = None) -> Sample:
    return Sample(
        e2e_ns=round(e2e_ms * MS),
        wall_ns=None,
        token_ns=[[round(time * MS) for time in row] for row in rows],
        discarded=discarded,
    )


def measured(cell: Cell, samples: list[Sample], **outcome: Any) -> sessions.Sessions:
    """Return the columns of one session, as the reading half takes them from its line."""
    line = lines.encode(make_record(cell, 1, samples, outcome=outcome))
    gatherer = sessions.Gatherer()
    gatherer.take(msgspec.json.decode(line, type=sessions.RecordedSession).outcome)
    return gatherer.sessions([cell])


def values(cell: Cell, samples: list[Sample], **outcome: Any) -> dict[str, float]:
    """Return every metric of one session."""
    columns = measured(cell, samples, **outcome)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {metric.key: float(metric.value(columns)[0]) for metric in metrics.METRICS}


def test_the_metrics_of_one_iteration_are_as_defined() -> None:
    found = values(CELL, [sample(40, [20, 28, 40])])

    assert found["e2e_s"] == pytest.approx(0.040)
    assert found["ttft_s"] == pytest.approx(0.020)
    assert found["tpot_s"] == pytest.approx(0.010)  # (40 - 20) / 2
    assert found["itl_s"] == pytest.approx(0.010)  # the gaps are 8 and 12
    assert found["prefill_tok_s"] == pytest.approx(2 * 8 / 0.020)
    assert found["decode_tok_s"] == pytest.approx(2 * 2 / 0.020)
    assert found["output_tok_s"] == pytest.approx(2 * 3 / 0.040)
    assert found["total_tok_s"] == pytest.approx(2 * 11 / 0.040)
    assert math.isnan(found["output_text_bytes_s"])  # ids that were drawn are no text


def test_text_a_second_is_tokens_a_second_by_what_a_token_holds() -> None:
    found = values(CELL, [sample(40, [20, 28, 40])], prompt_bytes_per_token=4.5)

    assert found["prefill_text_bytes_s"] == pytest.approx(4.5 * 2 * 8 / 0.020)
    assert found["output_text_bytes_s"] == pytest.approx(4.5 * 2 * 3 / 0.040)


def test_the_first_token_is_there_when_the_last_sequence_has_one() -> None:
    found = values(CELL, [sample(40, [10, 20, 40], [16, 22, 30])])

    assert found["ttft_s"] == pytest.approx(0.016)
    assert found["tpot_s"] == pytest.approx(0.012)  # (40 - 16) / 2
    assert found["itl_s"] == pytest.approx(0.009)  # of 6, 8, 10, 20


def test_a_session_is_its_median_iteration_and_a_rate_is_taken_over_it() -> None:
    found = values(CELL, [sample(e2e, [10, 15, e2e]) for e2e in (90, 30, 40)])

    assert found["e2e_s"] == pytest.approx(0.040)
    assert found["output_tok_s"] == pytest.approx(6 / 0.040)  # not the mean of 66, 200 and 150
    assert found["tpot_s"] * found["decode_tok_s"] == pytest.approx(CELL.batch_size)


def test_an_even_number_of_iterations_has_its_median_between_the_middle_two() -> None:
    found = values(CELL, [sample(e2e, [10, 15, e2e]) for e2e in (90, 30, 40, 50)])

    assert found["e2e_s"] == pytest.approx(0.045)


def test_one_new_token_has_no_time_per_further_token() -> None:
    found = values(make_cell(batch_size=2, input_len=8, output_len=1), [sample(20, [19])])

    assert found["ttft_s"] == pytest.approx(0.019)
    assert found["output_tok_s"] == pytest.approx(2 / 0.020)
    assert all(math.isnan(found[key]) for key in ("tpot_s", "itl_s", "decode_tok_s"))


def test_discarded_and_clockless_iterations_do_not_count() -> None:
    throttled = sample(400, [200, 280, 400], discarded="thermal")
    clockless = Sample(e2e_ns=None, wall_ns=None, token_ns=[[1, 2, 3]])

    found = values(CELL, [throttled, sample(40, [20, 28, 40]), clockless])

    assert found["e2e_s"] == pytest.approx(0.040)
    assert found["ttft_s"] == pytest.approx(0.020)


def test_an_engine_without_token_times_has_totals_only() -> None:
    found = values(CELL, [sample(40), sample(42), sample(44)])

    assert found["e2e_s"] == pytest.approx(0.042)
    assert all(math.isnan(found[key]) for key in ("ttft_s", "tpot_s", "itl_s", "prefill_tok_s"))


def test_ragged_token_times_are_read_row_by_row() -> None:
    found = values(CELL, [sample(40, [20, 28, 40], [21, 25]), sample(40, [20, 28, 40])])

    assert found["ttft_s"] == pytest.approx(0.0205)  # of 21 and 20
    assert found["itl_s"] == pytest.approx(0.008)  # of 4, 8, 8, 12, 12


def test_what_was_not_measured_is_absent_and_never_zero() -> None:
    found = values(CELL, [], load_s=None, warmup_ns=[], memory=None)

    assert all(math.isnan(value) for value in found.values())


def test_load_first_call_and_memory_are_read_off_the_record() -> None:
    memory = Memory(weights_bytes=7, kv_cache_bytes=0, host_peak_rss_load_bytes=9)

    found = values(CELL, [], load_s=1.5, warmup_ns=[90 * MS, 40 * MS], memory=memory)

    assert found["load_s"] == 1.5
    assert found["first_call_s"] == pytest.approx(0.090)
    assert found["weights_bytes"] == 7
    assert found["kv_cache_bytes"] == 0
    assert found["host_peak_rss_load_bytes"] == 9
    assert math.isnan(found["peak_allocated_bytes"])


def test_the_spread_within_a_session_is_half_the_range_over_the_median() -> None:
    columns = measured(CELL, [sample(e2e, [10, 15, e2e]) for e2e in (36, 40, 48)])

    assert columns.e2e_spread[0] == pytest.approx((48 - 36) / 2 / 40)
    assert columns.ttft_spread[0] == 0


def test_a_single_iteration_has_no_spread() -> None:
    assert math.isnan(measured(CELL, [sample(40, [20, 28, 40])]).e2e_spread[0])


@pytest.mark.parametrize(
    ("counted_mj", "joules"),
    [([0, 0, 0, 70_000, 0], 14.0), ([0, 0, 0, 0, 0], math.nan), ([7, None, 7, 7, 7], math.nan)],
)
def test_energy_is_the_mean_of_a_counter_that_moves_in_steps(
    counted_mj: list[int | None], joules: float
) -> None:
    plain = sample(40, [20, 28, 40])
    samples = [msgspec.structs.replace(plain, energy_mj=energy_mj) for energy_mj in counted_mj]

    assert measured(CELL, samples).energy_j[0] == pytest.approx(joules, nan_ok=True)


def test_sessions_of_different_shapes_keep_their_order() -> None:
    gatherer = sessions.Gatherer()
    expected = [0.040, 0.010, 0.050, 0.020]
    for e2e_s, count in zip(expected, (3, 1, 3, 2), strict=True):
        samples = [sample(e2e_s * 1e3, [1, 2, 3])] * count
        line = lines.encode(make_record(CELL, 1, samples))
        gatherer.take(msgspec.json.decode(line, type=sessions.RecordedSession).outcome)

    assert gatherer.sessions([CELL] * 4).e2e_s == pytest.approx(expected)


@pytest.mark.parametrize("metric", metrics.METRICS, ids=lambda metric: metric.key)
def test_every_metric_says_its_unit_and_its_definition(metric: metrics.Metric) -> None:
    assert (
        metric.key.endswith(("_s", "_bytes", "_j", "_rps", "_share", "_per_step"))
        or metric.key in metrics.SHARES
    )  # no unit
    assert metric.key.endswith("_tok_s") == (metric.unit is metrics.RATE)
    assert metric.definition
    assert metric.clock
    assert not metric.definition.endswith(".")


def test_every_kind_of_memory_that_is_recorded_is_a_metric() -> None:
    assert set(Memory.__struct_fields__) <= {metric.key for metric in metrics.METRICS}


@pytest.mark.parametrize(
    ("key", "within"),
    [
        ("e2e_s", "median over iterations"),
        ("energy_per_output_token_j", "mean over iterations"),
        ("load_s", None),
        ("weights_bytes", None),
    ],
)
def test_it_is_told_how_a_sessions_value_comes_of_its_iterations(
    key: str, within: str | None
) -> None:
    assert metrics.BY_KEY[key].within == within


def test_a_metric_may_be_called_by_the_head_of_its_column() -> None:
    assert metrics.named(["ttft", "in+out", "TTFT", "ttft_s"]) == metrics.named(
        ["ttft_s", "total_tok_s"]
    )
    assert len(metrics.BY_LABEL) == len(metrics.METRICS)


def test_an_unknown_metric_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(SpecError, match=r"unknown metric 'ttft_ms'\. Did you mean 'ttft_s'\?"):
        metrics.named(["e2e_s", "ttft_ms"])


@pytest.mark.parametrize("metric", metrics.METRICS, ids=lambda metric: metric.key)
def test_no_metric_has_the_name_of_a_secret(metric: metrics.Metric) -> None:
    shown = json.dumps({metric.key: {"unit": "1"}})

    assert redact(shown) == shown
