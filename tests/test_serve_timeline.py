"""What a window of requests says: known answers for rates, requests in flight, Little's law and overload."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.serve import metrics, timeline, wire
from llmbench.serve.timeline import ServedRequest

S = 1_000_000_000


def request(
    number: int,
    due_s: float,
    first_s: float,
    step_s: float = 0.01,
    tokens: int = 11,
    **more: object,
) -> ServedRequest:
    due = round(due_s * S)
    times = [due + round((first_s + step_s * n) * S) for n in range(tokens)]
    facts: dict[str, object] = {
        "number": number, "due_ns": due, "sent_ns": due, "ended_ns": times[-1], "token_ns": times, "lag_ns": [],
        "merged": 0, "tokens": tokens, "prompt_tokens": 5, "cached_tokens": 0, "trouble": "",
    }  # fmt: skip
    return ServedRequest(**{**facts, **more})  # type: ignore[arg-type]


def constant(rate: float, count: int, first_s: float = 0.1, **more: object) -> list[ServedRequest]:
    return [request(n, n / rate, first_s, **more) for n in range(count)]  # type: ignore[arg-type]


def test_a_constant_stream_has_the_figures_that_follow_from_it() -> None:
    told = timeline.figures(constant(20, 400), 5 * S, 15 * S, 30 * S)

    assert (told.due, told.done, told.failed) == (200, 200, {})
    assert told.offered_rps == told.achieved_rps == 20
    assert told.output_tok_s == pytest.approx(220)
    assert told.in_flight == pytest.approx(20 * 0.2, rel=0.01)
    assert abs(told.little) < 0.01
    assert abs(told.halves) < 0.01
    assert not told.overloaded


def test_requests_that_are_answered_later_and_later_are_more_than_the_server_carries() -> None:
    grows = [request(n, n / 20, 0.1 + 0.05 * n) for n in range(400)]

    told = timeline.figures(grows, 2 * S, 12 * S, 60 * S)

    assert told.overloaded
    assert told.achieved_rps < 0.97 * told.offered_rps


def test_a_failed_request_is_counted_by_its_kind_and_meets_no_limit() -> None:
    requests = constant(10, 100)
    requests[50] = requests[50]._replace(trouble="unreadable: HTTP 500", token_ns=[], tokens=None)

    told = timeline.figures(requests, 0, 10 * S, 20 * S)
    found = metrics.given(requests, told, metrics.Slo(0.15, 0.0), latencies=True)

    assert (told.done, told.failed) == (99, {"unreadable": 1})
    assert found["slo_share"].value == 0.99
    assert found["goodput_rps"].value == pytest.approx(9.9)


def test_the_metrics_are_medians_over_requests_from_when_they_were_due() -> None:
    requests = [request(n, n / 10, 0.1 + 0.001 * (n % 3)) for n in range(99)]
    told = timeline.figures(requests, 0, 10 * S, 20 * S)

    found = metrics.given(requests, told, metrics.Slo(0, 0), latencies=True)

    assert found["served_ttft_s"].value == pytest.approx(0.101)
    assert found["served_tpot_s"].value == pytest.approx(0.01)
    assert found["served_gap_s"].value == pytest.approx(0.01)
    assert found["served_e2e_s"].value == pytest.approx(0.201)
    assert not {"served_ttft_p90_s", "slo_share"} & set(found)


def test_no_latency_is_told_of_a_load_that_is_not_carried() -> None:
    requests = constant(10, 100)
    told = timeline.figures(requests, 0, 10 * S, 20 * S)

    assert set(metrics.given(requests, told, metrics.Slo(0, 0), latencies=False)) == {
        "steady_output_tok_s",
        "achieved_rps",
    }


def test_gaps_are_absent_where_an_event_held_several_tokens() -> None:
    requests = constant(10, 100, tokens=11)
    requests[3] = requests[3]._replace(tokens=22)
    told = timeline.figures(requests, 0, 10 * S, 20 * S)

    found = metrics.given(requests, told, metrics.Slo(0, 0), latencies=True)

    assert "served_gap_s" not in found
    assert found["served_tpot_s"].value == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("count", "share", "there"), [(99, 0.9, False), (100, 0.9, True), (999, 0.99, False)]
)
def test_a_percentile_needs_ten_requests_beyond_it(count: int, share: float, there: bool) -> None:
    assert (timeline.percentile([1.0] * count, share) is not None) == there


@given(moved=st.integers(-(10**12), 10**12))
def test_nothing_changes_if_all_times_move(moved: int) -> None:
    requests = constant(20, 200)
    later = [
        each._replace(
            due_ns=each.due_ns + moved, sent_ns=each.sent_ns + moved, ended_ns=each.ended_ns + moved,
            token_ns=[at + moved for at in each.token_ns],
        )
        for each in requests
    ]  # fmt: skip

    told = timeline.figures(requests, 2 * S, 8 * S, 20 * S)
    again = timeline.figures(later, 2 * S + moved, 8 * S + moved, 20 * S + moved)

    assert again.in_flight == pytest.approx(told.in_flight)
    assert again._replace(in_flight=0, little=0, growth_low=0) == told._replace(
        in_flight=0, little=0, growth_low=0
    )


@pytest.mark.parametrize(
    ("rates", "steady"),
    [
        ((100, 100, 100), True),
        ((100, 103, 100), True),
        ((100, 110, 100), False),
        ((0, 0, 0), False),
        ((50, 100, 150), False),
    ],
)
def test_a_ramp_is_over_when_its_last_parts_agree(rates: tuple[int, ...], steady: bool) -> None:
    received, at = 0, [(0, 0)]
    for part, rate in enumerate(rates):
        for tick in range(10):
            received += rate
            at.append((part * S + (tick + 1) * S // 10, received))

    assert timeline.steady(at, S) == steady
    assert not timeline.steady(at[:-15], S)
    assert not timeline.steady([], S)


def reply(kernel: list[int], user: list[int]) -> wire.ServedReply:
    return wire.ServedReply(0, 0, 0, 0, kernel, user, 0, len(kernel), 1, 0, [], "")


def test_stamps_move_to_the_monotonic_clock_by_the_offset_of_their_moment() -> None:
    offsets = [(0, 1_000_000), (1000, 1_000_100)]

    (placed,) = timeline.on_one_clock([reply([1_000_450, 1_000_950], [520, 1020])], offsets)

    assert placed.token_ns == [450 - 52, 950 - 100]
    assert placed.lag_ns == [520 - 398, 1020 - 850]


def test_without_stamps_the_clients_clock_counts_and_no_lag_is_known() -> None:
    (placed,) = timeline.on_one_clock([reply([0, 0], [520, 1020])], [(0, 5)])

    assert (placed.token_ns, placed.lag_ns) == ([520, 1020], [])
