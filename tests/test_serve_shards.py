"""A load in several client processes: the same numbers as in one, by the server's own log; and shards that fail."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from llmbench.errors import LoadFailed
from llmbench.serve import endpoint
from llmbench.serve.loaded import LoadedServer
from llmbench.serve.shards import Shards, Share
from llmbench.spec.load import CLOSED, Load, shards
from test_serve_stream import LOGGED, serving, written

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from llmbench.serve.endpoint import Address

TOKENS = 8


class Target:
    """As much of a server as a load needs."""

    def __init__(self, address: Address) -> None:
        self.address = address


def numbered(address: Address) -> Callable[[int], bytes]:
    """Return what writes requests whose number the server logs."""

    def request(number: int) -> bytes:
        first, _, rest = endpoint.request(address, written([number], TOKENS)).partition(b"\r\n")
        return b"%s\r\nX-Number: %d\r\n%s" % (first, number, rest)

    return request


def loaded(address: Address, load: Load, count: int, **more: Any) -> LoadedServer:
    given: dict[str, Any] = {
        "trace": None,
        "request": numbered(address),
        "seed": "shards",
        "window_s": 0.4,
        "budget_s": 0.1,
        "alone_s": 0.05,
        "heard": lambda *_: None,
        "reopens": False,
        "shards": count,
    }
    return LoadedServer(Target(address), load, **(given | more))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "load", [Load(CLOSED, 5), Load("constant", 64, 40.0)], ids=["closed", "open"]
)
def test_shards_send_one_load_whose_every_token_came_as_the_server_logged_it(
    tmp_path: Path, load: Load
) -> None:
    with serving(tmp_path, ttft_ms=30.0, itl_ms=5.0) as address:
        done = loaded(address, load, 2)

    truth: dict[int, list[int]] = {}
    for number, _, at in LOGGED.iter_unpack((tmp_path / "log").read_bytes()):
        truth.setdefault(number, []).append(at)
    numbers = [each.number for each in done.requests]
    assert len(set(numbers)) == len(numbers) <= done.client.sent <= done.numbered
    assert {number % 2 for number in numbers} == {0, 1}
    assert not [each.trouble for each in done.requests if each.trouble]
    whole = [each for each in done.requests if len(each.token_ns) == TOKENS]
    assert {each.number for each in done.mine} <= {each.number for each in whole}
    late = np.concatenate([np.array(each.token_ns) - truth[each.number] for each in whole])
    assert np.median(late) < 1_000_000
    assert late.min() > -100_000
    assert len(done.offsets) == 2
    if load.kind == CLOSED:
        assert 4 < done.told.in_flight <= 5.01
    else:
        assert done.told.offered_rps == pytest.approx(40, rel=0.1)
        begun = sorted(
            each.due_ns for each in done.mine
        )  # after the window each shard ends by itself
        assert np.diff(begun) == pytest.approx(25_000_000, abs=1_000)  # one schedule, dealt out


def test_the_shares_of_shards_are_the_whole_load() -> None:
    shares = [Share(number, 3) for number in range(3)]

    assert [share.streams(8) for share in shares] == [3, 3, 2]
    assert sorted(share.global_number(own) for share in shares for own in range(4)) == [*range(12)]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"load": "8"}, 1),
        ({"load": "8", "shards": 3}, 3),
        ({"load": "4096", "shards": 0}, 4),
        ({"load": "20/s", "shards": 0}, 1),
    ],
)
def test_as_many_shards_as_asked_for_or_one_for_each_1024_streams(
    options: dict[str, Any], wanted: int
) -> None:
    assert shards(options) == wanted


def test_a_shard_that_fails_is_told_in_its_own_words_and_none_is_left(tmp_path: Path) -> None:
    def refuse(number: int) -> bytes:
        raise ValueError(f"no request {number}")

    before = psutil.Process().children()
    with (
        serving(tmp_path) as address,
        pytest.raises(LoadFailed, match=r"^a client process ended: no request [01]$"),
    ):
        loaded(address, Load(CLOSED, 2), 2, request=refuse)
    assert [each for each in psutil.Process().children() if each not in before] == []


def test_a_shard_that_dies_ends_the_load() -> None:
    def dies(_: Share) -> Any:
        os._exit(9)

    began = time.monotonic()
    with pytest.raises(LoadFailed, match=r"^a client process ended: it died$"):
        Shards(2, (), dies, lambda *_: None).run(lambda *_: None, lambda: 0)
    assert time.monotonic() - began < 5


def test_a_closed_loop_stays_on_until_the_last_request_of_the_window_has_ended(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, ttft_ms=60.0, itl_ms=1.0) as address:
        done = loaded(address, Load(CLOSED, 4), 1)

    last = max(each.ended_ns for each in done.mine)
    assert last > done.end_ns
    assert done.client.sent > len(done.requests)  # some were on their way when it ended
