"""What a tool's file may hold that is no number of ours, said in its own words; and what is left without a part."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from llmbench import importers
from llmbench.errors import Unconvertible
from llmbench.importers import fields
from test_importers import FILES, changed

if TYPE_CHECKING:
    from pathlib import Path

REQUESTS = "benchmarks.0.requests.successful"
TOTALS = "benchmarks.0.metrics.request_totals"

REFUSALS: list[tuple[str, str, Any, str]] = [
    ("guidellm.json", "benchmarks", [], "holds no benchmark"),
    ("guidellm.json", f"{TOTALS}.successful", 0, "requests were completed"),
    ("guidellm.json", f"{REQUESTS}.0.info.timings.first_token_iteration", 1.0, "before it was sent"),
    ("guidellm.json", f"{REQUESTS}.0", "x", "is not an object"),
    ("optimum_benchmark.json", "config.launcher.name", "torchrun", "mixes the iterations"),
    ("optimum_benchmark.json", "config.scenario.generate_kwargs.num_beams", 4, "4 sequences per prompt"),
    ("optimum_benchmark.json", "report.decode.latency.unit", "ms", "its unit is not seconds"),
    ("optimum_benchmark.json", "report.decode.memory.unit", "GB", "its unit is not MB"),
    ("aiperf.json", "time_to_first_token.p50", 1e6, "lies outside of"),
    ("vllm_serve.json", "request_rate", 1e300, "is not a string, number or boolean"),
    ("vllm_throughput.json", "num_requests", 0, "has 0 requests and"),
]  # fmt: skip


def with_value(path: str, value: Any) -> Any:
    """Return a change that puts a value at a place, `a.0.b`."""

    def change(held: Any) -> None:
        *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
        for key in parents:
            held = held[key]
        held[last] = value

    return change


@pytest.mark.parametrize(("name", "path", "value", "says"), REFUSALS)
def test_what_cannot_be_held_is_refused_in_words(
    name: str, path: str, value: Any, says: str, tmp_path: Path
) -> None:
    file = changed(tmp_path, name, with_value(path, value))

    with pytest.raises(Unconvertible, match=says):
        importers.read(file, {})


def test_a_test_of_nothing_is_refused(tmp_path: Path) -> None:
    test = json.loads((FILES / "llama_bench.jsonl").read_text().splitlines()[0])
    path = tmp_path / "nothing.jsonl"
    path.write_text(json.dumps({**test, "n_prompt": 0, "n_gen": 0}))

    with pytest.raises(Unconvertible, match="has neither a prompt nor steps"):
        importers.read(path, {})


def test_a_file_of_two_tools_is_asked_about(tmp_path: Path) -> None:
    both = {
        **json.loads((FILES / "vllm_latency.json").read_text()),
        **json.loads((FILES / "vllm_throughput.json").read_text()),
    }
    path = tmp_path / "both.json"
    path.write_text(json.dumps(both))

    with pytest.raises(Unconvertible, match="with --from: vllm_latency, vllm_throughput"):
        importers.read(path, {})
    assert importers.read(path, {}, "vllm_latency")[0] == "vllm bench latency"


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fields, "MOST_BYTES", 2**20)
    path = tmp_path / "large.json"
    path.write_bytes(bytes(2**20 + 1))

    with pytest.raises(Unconvertible, match=r"large\.json: is larger than 1 MiB"):
        importers.read(path, {})


def kept(tmp_path: Path, name: str, change: Any) -> importers.Reading:
    (reading,) = importers.read(changed(tmp_path, name, change), {})[2]
    return reading


def test_requests_that_were_not_streamed_have_rates_only(tmp_path: Path) -> None:
    def whole(held: Any) -> None:
        for request in held["benchmarks"][0]["requests"]["successful"]:
            request["info"]["timings"]["first_token_iteration"] = None

    reading = kept(tmp_path, "guidellm.json", whole)

    assert set(reading.given) == {"served_output_tok_s", "served_total_tok_s"}


def test_a_run_with_its_ends_cut_off_has_no_rates(tmp_path: Path) -> None:
    reading = kept(tmp_path, "guidellm.json", with_value("benchmarks.0.warmup_duration", 5.0))

    assert not {"served_output_tok_s", "served_total_tok_s"} & set(reading.given)
    assert "not the whole run's" in reading.refused["rates"]


def test_a_run_with_neither_is_refused(tmp_path: Path) -> None:
    def cut(held: Any) -> None:
        held["benchmarks"][0]["warmup_duration"] = 5.0
        del held["benchmarks"][0]["requests"]["successful"][1:]

    with pytest.raises(Unconvertible, match="a median needs all of them; warm-up or cool-down"):
        kept(tmp_path, "guidellm.json", cut)


def test_requests_of_one_token_have_no_time_per_token(tmp_path: Path) -> None:
    def one(held: Any) -> None:
        for request in held["benchmarks"][0]["requests"]["successful"]:
            request["output_tokens"] = 1

    reading = kept(tmp_path, "guidellm.json", one)

    assert "request_tpot_s" not in reading.given
    assert reading.where["output_len"] == 1


def test_a_load_in_several_phases_is_no_option(tmp_path: Path) -> None:
    def twice(held: Any) -> None:
        held["input_config"]["phases"] *= 2

    assert kept(tmp_path, "aiperf.json", twice).where["options"] == {}


def test_a_call_for_one_token_alone_is_a_time_to_the_first_token(tmp_path: Path) -> None:
    def by_vllm(held: Any) -> None:
        held["config"]["backend"]["name"] = "vllm"
        del held["report"]["per_token"]

    reading = kept(tmp_path, "optimum_benchmark.json", by_vllm)

    assert set(reading.given) == {"ttft_s"}
    assert reading.where["backend"] == "vllm"


def test_gaps_that_are_those_of_the_calls_are_taken(tmp_path: Path) -> None:
    def counted_once(held: Any) -> None:
        report = held["report"]
        calls = len(report["prefill"]["latency"]["values"])
        n = held["config"]["scenario"]["generate_kwargs"]["max_new_tokens"]
        gaps = report["per_token"]["latency"]["values"][: calls * (n - 1)]
        report["per_token"]["latency"].update(
            values=gaps,
            count=len(gaps),
            mean=sum(gaps) / len(gaps),
            p50=sorted(gaps)[len(gaps) // 2],
        )
        if len(gaps) % 2 == 0:
            middle = sorted(gaps)[len(gaps) // 2 - 1 : len(gaps) // 2 + 1]
            report["per_token"]["latency"]["p50"] = sum(middle) / 2

    assert "itl_s" in kept(tmp_path, "optimum_benchmark.json", counted_once).given


def test_lengths_that_make_the_tokens_counted_are_taken(tmp_path: Path) -> None:
    def equal(held: Any) -> None:
        held["tokens_per_second"] *= 384 / held["total_num_tokens"]
        held["total_num_tokens"] = 384

    path = changed(tmp_path, "vllm_throughput.json", equal)

    _, _, (reading,) = importers.read(path, {"input_len": 32, "output_len": 16})
    assert reading.given["total_tok_s"].value > 0
