"""The file of raw requests: what goes in comes out, in few bytes, and a damaged one is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from llmbench.results import requests_file as results_file
from llmbench.serve import requests_file
from test_serve_timeline import S, request

if TYPE_CHECKING:
    from pathlib import Path


def test_what_is_written_is_read_to_the_microsecond(tmp_path: Path) -> None:
    requests = [request(n, 0.05 * n, 0.1 + 1e-4 * n, 0.0123456) for n in range(20)]
    requests[7] = requests[7]._replace(
        trouble="cut", token_ns=requests[7].token_ns[:3], tokens=None
    )

    told = requests_file.write(tmp_path / "requests" / "x.requests", requests, S)
    read = results_file.load(tmp_path / "requests" / "x.requests")

    assert (told["file"], told["requests"]) == ("requests/x.requests", 20)
    assert told["bytes"] == (tmp_path / told["file"]).stat().st_size
    assert read.number.tolist() == list(range(20))
    assert read.trouble[7] == "cut"
    assert read.tokens.tolist()[6:8] == [11, -1]
    for each, due, times in zip(requests, read.due_s, read.token_s, strict=True):
        assert due == pytest.approx(each.due_ns / 1e9 - 1, abs=1e-6)
        assert times == pytest.approx(np.array(each.token_ns) / 1e9 - 1, abs=2e-6)


def test_a_request_of_64_tokens_takes_at_most_200_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    requests = [
        request(n, float(due), 0.1 + rng.exponential(0.02), tokens=64)._replace(
            token_ns=[round((due + 0.1 + at) * S) for at in np.cumsum(rng.gamma(4, 0.0075, 64))]
        )
        for n, due in enumerate(np.cumsum(rng.exponential(0.05, 500)))
    ]

    told = requests_file.write(tmp_path / "requests" / "x.requests", requests, 0)

    assert told["bytes"] / 500 <= 200


@pytest.mark.parametrize(
    "change",
    [lambda d: b"x" + d, lambda d: d[:-9], lambda d: d[:12] + b"zz" + d[14:], lambda _: b""],
)
def test_a_damaged_file_is_refused(tmp_path: Path, change: object) -> None:
    path = tmp_path / "requests" / "x.requests"
    requests_file.write(path, [request(0, 0, 0.1)], 0)
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]

    with pytest.raises(ValueError, match=r"is not a file of requests|is damaged"):
        results_file.load(path)


def test_columns_that_do_not_agree_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.requests"
    head = {"rows": 1, "gaps": 1, "trouble": []}
    path.write_bytes(results_file.packed(head, np.zeros(10, dtype="<i4").tobytes()))

    with pytest.raises(ValueError, match="its columns do not agree"):
        results_file.load(path)


def test_a_servers_words_keep_no_secret(tmp_path: Path) -> None:
    path = tmp_path / "requests" / "x.requests"
    said = "unreadable: HTTP 401: Incorrect API key provided: sk-proj-abcdEFGH1234567890abcdEFGH"

    requests_file.write(path, [request(0, 0, 0.1)._replace(trouble=said)], 0)

    assert results_file.load(path).trouble == [
        "unreadable: HTTP 401: Incorrect API key provided: <redacted>"
    ]
