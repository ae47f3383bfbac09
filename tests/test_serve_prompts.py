"""Prompts: shared parts and what a cache knew of them, and prompts of words whose length the server counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from llmbench.results import requests_file
from llmbench.results.record import Status
from sweeps import asked
from test_served_sweeps import OF_A_BUSY_MACHINE, ONE, codes, served

if TYPE_CHECKING:
    from llmbench.results.record import Record
    from sweeps import Bench

LONG: dict[str, Any] = {**ONE, "input_len": 160}


def warned(record: Record) -> set[str]:
    return {finding.code for finding in record.warnings}


def test_a_shared_prefix_is_an_axis_whose_hits_are_measured(bench: Bench) -> None:
    axes = {**LONG, "shared_prefix": [0.5]}

    (shared,) = served(bench, axes, prefix_cache=True, window_s=0.5).records

    assert shared.cell.options["shared_prefix"] == 0.5
    assert codes(shared) <= OF_A_BUSY_MACHINE
    assert shared.outcome.given["prefix_hit_share"].value == pytest.approx(0.5)
    assert "prefix_misses" not in warned(shared)
    if shared.status is Status.OK:
        assert "prefix hits" in asked("table", bench.run).out


@pytest.mark.slow
def test_a_cache_that_is_off_is_said(bench: Bench) -> None:
    (record,) = served(bench, {**LONG, "shared_prefix": 0.5}, window_s=0.5).records

    assert record.outcome.given["prefix_hit_share"].value == 0
    assert "prefix_misses" in warned(record)


@pytest.mark.slow
def test_hits_beyond_what_is_shared_make_a_record_invalid(bench: Bench) -> None:
    done = served(
        bench, {**LONG, "shared_prefix": 0.5}, window_s=0.5, prefix_cache=True, fault="cached"
    )

    (record,) = done.records
    assert "prefix_hits" in codes(record)


@pytest.mark.parametrize("prompt_as", ["chat", pytest.param("text", marks=pytest.mark.slow)])
def test_prompts_of_words_have_the_length_that_the_server_counts(
    bench: Bench, prompt_as: str
) -> None:
    done = served(bench, prompt_as=prompt_as, besides=5, window_s=0.5)

    (record,) = done.records
    told = record.outcome.served
    assert told is not None
    assert codes(record) <= OF_A_BUSY_MACHINE
    assert told.prompts["besides"] == 5
    assert told.prompts["prompt_as"] == prompt_as
    read = requests_file.load(bench.run / told.requests["file"])
    assert set(read.prompt_tokens) == {40}
    assert {len(times) for times in read.token_s} == {12}


def test_prompts_shorter_than_what_stands_around_them_fail_with_a_reason(bench: Bench) -> None:
    (record,) = served(bench, prompt_as="chat", besides=50).records

    assert record.status is Status.LOAD_FAILED
    assert "counts 50 tokens besides a prompt's words" in (record.reason or "")


@pytest.mark.parametrize(
    ("axes", "options", "words"),
    [
        ({"shared_prefix": 1.0}, {}, "shared_prefix: 1.0 is not a share"),
        ({}, {"extra": "min_tokens"}, "extra: 'min_tokens' is not a JSON object"),
        ({}, {"prompt_as": "words"}, "unknown value 'words'"),
        ({"load": "trace"}, {}, "load: 'trace' is not a load; write 8"),
        ({"load": "trace x speed 0"}, {}, "a speed is above 0"),
    ],
)
def test_a_mistake_gets_one_line(
    bench: Bench, axes: dict[str, Any], options: dict[str, Any], words: str
) -> None:
    done = served(bench, {**ONE, **axes}, **options)

    assert (done.code, done.err.count("\n")) == (2, 1)
    assert words in done.err


def test_a_shared_prefix_needs_a_server() -> None:
    done = asked("sweep", "--model", "llama-7b@tiny", "--load", "4", "--dry-run")

    assert done.code == 2
    assert "serves no requests" in done.err
