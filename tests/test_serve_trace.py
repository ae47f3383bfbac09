"""Traces: three published forms, what is refused in them, and a sweep that plays one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from llmbench.errors import SpecError
from llmbench.results import requests_file
from llmbench.results.record import Status
from llmbench.serve import trace
from llmbench.serve.arrivals import arrivals
from llmbench.serve.endpoint import Address
from llmbench.serve.prompts import Prompts
from llmbench.spec.digest import digest_of
from llmbench.spec.load import Load, parse, with_defaults
from sweeps import SINGLE
from test_served_sweeps import OF_A_BUSY_MACHINE, ONE, codes, served

if TYPE_CHECKING:
    from pathlib import Path

    from sweeps import Bench

MOONCAKE = """\
{"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]}
{"timestamp": 3000, "input_length": 7322, "output_length": 490, "hash_ids": [0, 14]}
{"timestamp": 3000, "input_length": 10, "output_length": 7, "hash_ids": [0]}
"""
AZURE = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:04.0319600,3180,8
"""
AZURE_2024 = """\
TIMESTAMP,ContextTokens,GeneratedTokens
2024-05-10 00:00:00.009930+00:00,2162,5
2024-05-10 00:00:00.017335+00:00,2399,6
"""


class Target:
    """As much of a server as its prompts need."""

    address = Address("127.0.0.1", 1)
    vocab_size, special_ids = 5000, frozenset({0})
    key, served_name, ignore_eos = "", "fake", True


BURSTGPT = """\
Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type
45,ChatGPT,1087,230,1317,Conversation log
5,ChatGPT,472,18,490,Conversation log
118,GPT-4,417,0,417,Conversation log
"""


@pytest.mark.parametrize(
    ("text", "at_s", "lengths", "left_out"),
    [
        (MOONCAKE, [0, 3, 3], [(6758, 500), (7322, 490), (10, 7)], 0),
        (AZURE, [0, 0.052], [(4808, 10), (3180, 8)], 0),
        (AZURE_2024, [0, 0.007405], [(2162, 5), (2399, 6)], 0),
        (BURSTGPT, [0, 40], [(472, 18), (1087, 230)], 1),
    ],
)
def test_a_published_trace_is_read_in_the_order_of_arrival(
    tmp_path: Path, text: str, at_s: list[float], lengths: list[tuple[int, int]], left_out: int
) -> None:
    file = tmp_path / "trace"
    file.write_text(text)

    read = trace.read(str(file))

    assert read.at_s == pytest.approx(at_s, abs=1e-6)
    assert [read.lengths(number) for number in range(len(at_s))] == lengths
    assert read.left_out == left_out
    assert read.longest == tuple(map(max, zip(*lengths, strict=True)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no request"),
        ("a,b\n1,2\n", "line 2: has a, b; the columns of a trace are timestamp"),
        (BURSTGPT + "x,ChatGPT,1,1,2,y\n", "line 5: Timestamp: 'x' is not a time"),
        (BURSTGPT + "3,ChatGPT,1,one,2,y\n", "line 5: Request tokens|line 5: Response tokens"),
        (BURSTGPT + "nan,ChatGPT,1,1,2,y\n", "line 5: Timestamp: nan is no time"),
        (MOONCAKE + "{", "line 4: is not JSON"),
        (AZURE + "yesterday,1,1\n", "line 4: TIMESTAMP: 'yesterday' is not a time"),
        (AZURE + "2023-11-16 18:15:46.6805900,,1\n", "line 4: ContextTokens: is missing"),
        (
            MOONCAKE + '{"timestamp": 1, "input_length": 5, "output_length": 1, "hash_ids": [1.5]}',
            "hash_ids",
        ),
    ],
)
def test_what_is_no_trace_is_refused_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "trace"
    file.write_text(text)

    with pytest.raises(SpecError, match=words):
        trace.read(str(file))


def test_a_trace_that_is_missing_is_refused_with_its_name() -> None:
    with pytest.raises(SpecError, match="No such file"):
        trace.read("nowhere.csv")


def test_the_digest_follows_the_requests_and_not_the_form(tmp_path: Path) -> None:
    texts = (MOONCAKE, MOONCAKE.replace("{", '{"x": 1, '), MOONCAKE.replace("490", "491"))
    digests = []
    for text in texts:
        (tmp_path / "trace").write_text(text)
        digests.append(trace.read(str(tmp_path / "trace")).digest)

    assert digests[0] == digests[1] != digests[2]


def test_a_trace_plays_at_its_speed(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text(MOONCAKE)
    load = parse(f"trace {tmp_path}/trace speed 2")

    due = arrivals(load, "seed", 10.0, trace.read(load.file))

    assert load == Load("trace", 1024, file=f"{tmp_path}/trace", speed=2.0)
    assert due.tolist() == [0, 1_500_000_000, 1_500_000_000]


def test_a_sweep_plays_a_trace_with_the_lengths_of_each_request(bench: Bench) -> None:
    rows = [
        {"timestamp": 20 * n, "input_length": 40 + n % 7, "output_length": 4 + n % 3}
        for n in range(110)
    ]
    file = bench.run.parent / "some.jsonl"
    empty = {"timestamp": 5, "input_length": 40, "output_length": 0}
    file.write_text("\n".join(map(json.dumps, [*rows, empty])))

    done = served(
        bench, {**ONE, "load": f"trace {file}"}, protocol={**SINGLE, "warmup_budget_s": 0.5}
    )

    (record,) = done.records
    assert codes(record) <= OF_A_BUSY_MACHINE
    assert (record.cell.input_len, record.cell.output_len) == (46, 6)
    assert "/" not in record.id
    assert "left out 1 request without a prompt or an answer" in done.err + done.out
    told = record.outcome.served
    assert told is not None
    read = requests_file.load(bench.run / told.requests["file"])
    assert read.prompt_tokens.tolist() == [40 + n % 7 for n in read.number]
    assert [len(times) for times in read.token_s] == [4 + n % 3 for n in read.number]
    if record.status is Status.OK:
        assert told.due == pytest.approx(50, abs=1)
        assert np.diff(np.sort(read.due_s)) == pytest.approx(0.020, abs=1e-4)
        assert "unsteady" not in {finding.code for finding in record.warnings}


def test_a_trace_that_is_too_short_is_refused_before_anything_runs(bench: Bench) -> None:
    file = bench.run.parent / "some.jsonl"
    file.write_text(MOONCAKE)

    done = served(bench, {**ONE, "load": f"trace {file}"})

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert (
        "lasts 3 s; the ramp (warmup_budget_s 30) and the window (window_s 1) need 31 s" in done.err
    )


def test_blocks_of_one_name_are_the_same_tokens_and_all_others_differ(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text(MOONCAKE)
    read = trace.read(str(tmp_path / "trace"))
    prompts = Prompts(
        Target(),  # type: ignore[arg-type]
        with_defaults({}), read.lengths, 7322, "seed", read.blocks,
    )  # fmt: skip

    asked = [json.loads(prompts(number).partition(b"\r\n\r\n")[2])["prompt"] for number in range(3)]
    proof = json.loads(prompts.proof(ids=False).partition(b"\r\n\r\n")[2])["prompt"]

    assert [len(prompt) for prompt in (*asked, proof)] == [6758, 7322, 10, 6758]
    assert asked[0][:512] == asked[1][:512] != proof[:512]
    assert asked[2] == asked[0][:10]
    assert asked[0][512:1024] != asked[1][512:1024]
    assert asked[0][1024:1056] != asked[1][1024:1056]  # without a name
    assert read.known() == [0, 512, 10]


def test_a_trace_without_blocks_keeps_its_digest_and_one_with_others_has_another(
    tmp_path: Path,
) -> None:
    texts = (
        '{"timestamp": 0, "input_length": 8, "output_length": 2}',
        '{"timestamp": 0, "input_length": 8, "output_length": 2, "hash_ids": []}',
        '{"timestamp": 0, "input_length": 8, "output_length": 2, "hash_ids": [3]}',
    )
    digests = []
    for text in texts:
        (tmp_path / "trace").write_text(text)
        digests.append(trace.read(str(tmp_path / "trace")).digest)

    assert digests[0] == digests[1] == digest_of([[0.0, 8, 2]])
    assert digests[2] != digests[0]


def test_a_server_knows_as_much_of_a_trace_as_its_blocks_say(bench: Bench) -> None:
    file = bench.folder / "trace.jsonl"
    lines = [
        {"timestamp": 50 * n, "input_length": 1024, "output_length": 4, "hash_ids": [0, n]}
        for n in range(60)
    ]
    file.write_text("\n".join(map(json.dumps, lines)))

    done = served(
        bench,
        {**ONE, "load": f"trace {file}"},
        protocol={**SINGLE, "warmup_budget_s": 0.5},
        prefix_cache=True,
    )

    (record,) = done.records
    told = record.outcome.served
    assert told is not None
    assert codes(record) <= OF_A_BUSY_MACHINE
    assert told.prompts["shared"] == 0.5
    assert told.prompts["hits"] == pytest.approx(0.5, abs=0.02)
