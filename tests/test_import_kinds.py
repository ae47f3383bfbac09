"""Files as people have them: what tells their rows apart, what is suspicious in them, and what is no result file."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest

from llmbench import cli, importers
from llmbench.errors import Unconvertible
from llmbench.results import store, table
from sweeps import asked
from test_importers import FILES, changed, complaint, imported, load, values

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEP = 1
"""The place of a test of single steps in the fixture of llama-bench."""


def bench(folder: Path, *changes: dict[str, Any], name: str = "a.jsonl") -> Path:
    """Write one line of llama-bench for each change of the same test, each twice as fast as the one before."""
    test = json.loads((FILES / "llama_bench.jsonl").read_text().splitlines()[STEP])
    lines = []
    for number, change in enumerate(changes):
        times_ns = [ns // 2**number for ns in test["samples_ns"]]
        rates = [(test["n_prompt"] + test["n_gen"]) / ns * 1e9 for ns in times_ns]
        mean = {"avg_ns": sum(times_ns) / len(times_ns), "avg_ts": sum(rates) / len(rates)}
        lines.append(json.dumps({**test, "samples_ns": times_ns, **mean, **change}))
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


def told_apart_by(made: table.Table) -> dict[str, tuple[object, ...]]:
    """Return the coordinates in which the rows of a table differ."""
    return {axis.name: axis.values for axis in made.axes}


def rates(made: table.Table) -> list[float]:
    """Return the rows' only metric."""
    (numbers,) = made.numbers
    return [float(value) for value in numbers.middle]


# -- what tells rows apart -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "here", "there"),
    [
        ("gpu_info", "NVIDIA L4", "NVIDIA L40S"),
        ("cpu_info", "EPYC 9654", "Xeon 8480"),
        ("backends", "CUDA", "Vulkan"),
        ("build_commit", "0c1e570", "ffffff0"),
        ("model_type", "llama 7B Q4_0", "llama 7B Q8_0"),
        ("n_cpu_moe", 10, 30),
        ("split_mode", "layer", "row"),
        ("no_kv_offload", False, True),
        ("use_mmap", True, False),
        ("tensor_split", "0.00", "1.00/3.00"),
        ("a_setting_of_next_year", 1, 2),
    ],
)
@pytest.mark.parametrize("files", [1, 2])
def test_whatever_a_file_says_of_settings_build_and_machine_is_of_the_cell(
    key: str, here: object, there: object, files: int, tmp_path: Path
) -> None:
    paths = [bench(tmp_path, {key: here}, {key: there})]
    if files == 2:
        paths = [
            bench(tmp_path, {key: value}, name=f"{value}.jsonl".replace("/", "-"))
            for value in (here, there)
        ]

    made = imported(tmp_path / "run", *paths)

    assert len(made.cells) == 2
    assert rates(made)[1] == pytest.approx(rates(made)[0] * (1 if files == 2 else 2), rel=1e-6)
    shown = told_apart_by(made)
    assert "id" not in shown
    assert "file" not in shown
    assert not {"test"} & set(shown)


def test_a_setting_that_nobody_set_is_not_shown(tmp_path: Path) -> None:
    untouched = {
        "n_cpu_moe": 0,
        "split_mode": "layer",
        "use_mmap": 1,
        "tensor_split": "0.00",
        "poll": 50,
    }

    reading = importers.read(bench(tmp_path, untouched), {})[2][0]

    assert not set(untouched) & set(reading.where["options"])


def test_true_and_1_are_the_same_switch(tmp_path: Path) -> None:
    runs = []
    for name, value in (("old", True), ("new", 1)):
        runs.append(str(tmp_path / name))
        imported(tmp_path / name, bench(tmp_path, {"flash_attn": value}, name=f"{name}.jsonl"))

    command = ("compare", *runs, "--cross-machine", "--metric", "forward_decode_tok_s")
    told = json.loads(asked(*command, "--format", "json").out)

    assert [cell["ratio"] for cell in told["candidates"][0]["cells"]] == [pytest.approx(1)]


@pytest.mark.parametrize("names", [("a.jsonl", "b.jsonl"), ("x/a.jsonl", "y/a.jsonl")])
def test_rows_that_would_look_alike_name_their_file(names: tuple[str, str], tmp_path: Path) -> None:
    paths = [
        bench(tmp_path, {"test_time": f"2026-01-0{n}T00:00:00Z"}, name=name)
        for n, name in enumerate(names, 1)
    ]

    made = imported(tmp_path / "run", *paths)

    expected = (
        {"file": ("a.jsonl", "b.jsonl")} if names[0] == "a.jsonl" else {"test": ("1.1", "2.1")}
    )
    assert told_apart_by(made) == expected


def test_the_same_test_again_is_a_session_if_the_user_says_so(tmp_path: Path) -> None:
    paths = [bench(tmp_path, {"test_time": f"{n}"}, name=f"{n}.jsonl") for n in range(3)]
    other = bench(tmp_path, {"gpu_info": "another"}, name="other.jsonl")

    made = imported(tmp_path / "run", *paths, other, flags=("--as-sessions",))

    assert made.valid.tolist() == [3, 1]
    assert told_apart_by(made).keys() == {"gpu_info"}


@pytest.mark.parametrize(
    "change",
    [
        {"quantization_scheme": "bnb", "quantization_config": {"load_in_4bit": True}},
        {"torch_compile": True},
        {"attn_implementation": "flash_attention_2"},
        {"cache_implementation": "static"},
        {"device_ids": "0,1"},
        {"inter_op_num_threads": 4},
        {"quantization_config": {"skip": ["lm_head"]}},
    ],
)
def test_a_setting_of_optimum_benchmarks_backend_is_of_the_cell(
    change: dict[str, Any], tmp_path: Path
) -> None:
    other = changed(
        tmp_path, "optimum_benchmark.json", lambda held: held["config"]["backend"].update(change)
    )

    made = imported(tmp_path / "run", "optimum_benchmark.json", other, flags=("--as-sessions",))

    assert len(made.cells) == 2
    assert {name.partition(".")[0] for name in told_apart_by(made)} == set(change)


def serve(**more: Any) -> dict[str, Any]:
    return {**load("vllm_serve.json"), **more}


SWEPT = [{"max_num_seqs": 4, "run_number": 0}, {"max_num_seqs": 8, "run_number": 0}]
WRITTEN: dict[str, Callable[[list[Any]], str]] = {
    "append-result": lambda runs: "\n".join(map(json.dumps, runs)),
    "one after another": lambda runs: "".join(map(json.dumps, runs)),
    "summary": json.dumps,
    "pretty": lambda runs: "\n".join(json.dumps(run, indent=2) for run in runs),
}


@pytest.mark.parametrize("form", WRITTEN)
def test_runs_of_a_server_in_one_file_are_cells_by_their_parameters(
    form: str, tmp_path: Path
) -> None:
    path = tmp_path / "runs.json"
    path.write_text(WRITTEN[form]([serve(**more) for more in SWEPT]))

    made = imported(tmp_path / "run", path)

    assert told_apart_by(made) == {"max_num_seqs": (4, 8)}


def test_the_repetitions_of_a_sweep_on_one_server_are_no_sessions(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text(json.dumps([serve(run_number=number) for number in range(3)]))

    assert told_apart_by(imported(tmp_path / "run", path)) == {"run_number": (0, 1, 2)}


@pytest.mark.parametrize("name", ["vllm_latency.json", "vllm_throughput.json", "vllm_serve.json"])
@pytest.mark.parametrize("key", ["max_num_seqs", "model", "dtype", "tool", "batch_size"])
def test_whatever_was_added_at_the_top_is_of_the_cell(name: str, key: str, tmp_path: Path) -> None:
    paths = []
    for value in ("one", "two"):
        path = changed(tmp_path, name, lambda held, value=value: held.update({key: value}))
        paths.append(path.rename(tmp_path / f"{value}.json"))

    made = imported(tmp_path / "run", *paths)

    assert {values for name, values in told_apart_by(made).items() if name != "file"} == {
        ("one", "two")
    }


def test_a_rate_without_a_limit_is_infinite(tmp_path: Path) -> None:
    path = tmp_path / "sglang.jsonl"
    run = json.loads((FILES / "sglang_serve.jsonl").read_text().splitlines()[0])
    path.write_text(json.dumps({**run, "request_rate": math.inf}))

    assert importers.read(path, {})[2][0].where["options"]["request_rate"] == "inf"


def test_settings_that_are_nested_without_end_are_one_line(tmp_path: Path) -> None:
    def nest(held: Any) -> None:
        inner: Any = {"a": 1}
        for _ in range(300):
            inner = {"a": inner}
        held["config"]["backend"]["more"] = inner

    path = changed(tmp_path, "optimum_benchmark.json", nest)

    assert "its settings are nested too deeply" in complaint(path)


def test_a_setting_of_a_call_or_a_launcher_is_of_the_cell(tmp_path: Path) -> None:
    def sampled(held: Any) -> None:
        held["config"]["scenario"]["generate_kwargs"]["do_sample"] = True
        held["config"]["launcher"]["numactl"] = True

    other = changed(tmp_path, "optimum_benchmark.json", sampled)

    made = imported(tmp_path / "run", "optimum_benchmark.json", other, flags=("--as-sessions",))

    assert told_apart_by(made).keys() == {"do_sample"}


def test_the_load_of_older_aiperf_is_of_the_cell(tmp_path: Path) -> None:
    def older(concurrency: int) -> Callable[[Any], None]:
        def change(held: Any) -> None:
            phases = held["input_config"]["phases"]
            for phase in phases:
                del phase["kind"]
            phases[-1]["concurrency"] = concurrency

        return change

    paths = []
    for concurrency in (16, 32):
        path = changed(tmp_path, "aiperf.json", older(concurrency))
        paths.append(path.rename(tmp_path / f"{concurrency}.json"))

    made = imported(tmp_path / "run", *paths)

    assert told_apart_by(made) == {"concurrency": (16, 32)}


# -- versions as they are in the wild --------------------------------------------------------------


def test_a_total_that_a_version_does_not_state_is_worked_out(tmp_path: Path) -> None:
    raw = load("vllm_serve.json")
    path = changed(tmp_path, "vllm_serve.json", lambda held: held.pop("total_token_throughput"))

    total = values(importers.read(path, {})[2][0])["served_total_tok_s"]

    assert total == pytest.approx(raw["total_token_throughput"], rel=1e-6)


def test_a_rate_since_the_first_token_is_left_out_and_the_requests_are_not(tmp_path: Path) -> None:
    def since_first(held: Any) -> None:
        held["benchmarks"][0]["metrics"]["output_tokens_per_second"]["successful"]["mean"] *= 1.07

    reading = importers.read(changed(tmp_path, "guidellm.json", since_first), {})[2][0]

    assert "served_output_tok_s" not in reading.given
    assert "since the first token" in reading.refused["output_tokens_per_second"]
    assert {"request_ttft_s", "request_tpot_s", "served_total_tok_s"} <= set(reading.given)


def test_a_rate_from_the_first_request_is_the_tools_own(tmp_path: Path) -> None:
    def older(held: Any) -> None:
        held["benchmark_duration"]["avg"] *= 0.9
        for name in ("output_token_throughput", "total_token_throughput"):
            tokens = held["total_osl"]["avg"] + (
                held["total_isl"]["avg"] if name.startswith("total") else 0
            )
            held[name]["avg"] = tokens / held["benchmark_duration"]["avg"]

    raw = load("aiperf.json")
    reading = importers.read(changed(tmp_path, "aiperf.json", older), {})[2][0]

    rate = raw["total_osl"]["avg"] / (0.9 * raw["benchmark_duration"]["avg"])
    assert values(reading)["served_output_tok_s"] == pytest.approx(rate)


def in_records(held: dict[str, Any]) -> dict[str, Any]:
    """Return AIPerf's summary as 0.1 lays it out: metrics under `records`, no version, another configuration."""
    metrics = {
        key: held.pop(key)
        for key in list(held)
        if isinstance(held[key], dict) and "unit" in held[key]
    }
    for metric in metrics.values():
        metric.pop("sum", None)
    metrics.pop("error_request_count", None)
    rest = {key: held[key] for key in ("was_cancelled", "start_time", "end_time")}
    config = {
        "endpoint": {"model_names": ["tiny-llama"], "streaming": True},
        "loadgen": {"concurrency": 2},
    }
    errors = [{"error_details": {"type": "x"}, "count": 3}]
    return {"records": metrics, "input_config": config, "error_summary": errors, **rest}


def at_the_top(held: dict[str, Any]) -> dict[str, Any]:
    """Return AIPerf's summary as 0.3 lays it out: metrics at the top, no version."""
    older = in_records(held)
    return {**older.pop("records"), **older}


@pytest.mark.parametrize("layout", [in_records, at_the_top])
def test_older_aiperf_is_the_same_with_its_model_load_and_errors(
    layout: Callable[[dict[str, Any]], dict[str, Any]], tmp_path: Path
) -> None:
    path = tmp_path / "profile_export_aiperf.json"
    path.write_text(json.dumps(layout(load("aiperf.json"))))

    tool, _, (reading,) = importers.read(path, {})

    newer = importers.read(FILES / "aiperf.json", {})[2][0]
    assert (tool, reading.version) == ("aiperf", None)
    assert values(reading) == values(newer)
    assert reading.where["model"] == "tiny-llama"
    assert reading.where["options"] == {"concurrency": 2}
    assert [one.detail for one in reading.warnings if one.code == "requests_failed"] == [
        "3 of 11 requests failed"
    ]


def of_2025(held: dict[str, Any]) -> dict[str, Any]:
    """Return GuideLLM's report as 0.2 and 0.3 lay it out."""
    (benchmark,) = held["benchmarks"]
    for request in benchmark["requests"]["successful"]:
        timings = request.pop("info")["timings"]
        request |= {
            "start_time": timings["request_start"],
            "first_token_time": timings["first_token_iteration"],
            "last_token_time": timings["last_token_iteration"],
        }
    older = {
        "type_": "generative_benchmark",
        "args": {"strategy": {"type_": "concurrent", "streams": 2}, "max_number": 8},
        "run_stats": {},
        "worker": {"backend_type": "openai_http", "backend_model": "tiny-llama"},
        "request_totals": benchmark["metrics"]["request_totals"],
        "requests": benchmark["requests"],
    }
    return {"benchmarks": [older]}


def test_older_guidellm_has_its_requests_and_no_rate(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.json"
    path.write_text(json.dumps(of_2025(load("guidellm.json"))))

    tool, _, (reading,) = importers.read(path, {})

    newer = values(importers.read(FILES / "guidellm.json", {})[2][0])
    assert tool == "guidellm"
    assert values(reading) == {
        key: value for key, value in newer.items() if key.startswith("request_")
    }
    assert reading.where["model"] == "tiny-llama"
    assert reading.where["options"] == {"strategy": "concurrent", "streams": 2}
    assert "not the whole run's" in reading.refused["rates"]


def test_a_report_without_whole_calls_has_its_phases(tmp_path: Path) -> None:
    def of_2024(held: Any) -> None:
        report = held["report"]
        report["load"] = report.pop("load_model")
        del report["generate"], report["first_generate"]

    whole = importers.read(FILES / "optimum_benchmark.json", {})[2][0]
    reading = importers.read(changed(tmp_path, "optimum_benchmark.json", of_2024), {})[2][0]

    assert reading.samples == []
    assert (values(reading), reading.load_s) == (values(whole), whole.load_s)
    assert "whole call is not known" in reading.refused["generate"]


def test_energy_alone_is_refused_in_words(tmp_path: Path) -> None:
    def energy_only(held: Any) -> None:
        held["report"]["decode"]["latency"] = None

    path = changed(tmp_path, "optimum_benchmark.json", energy_only)

    assert "report.decode: has no latency, and energy alone cannot be imported" in complaint(path)


def test_sglang_is_recomputed_from_its_counts() -> None:
    lines = [json.loads(line) for line in (FILES / "sglang_serve.jsonl").read_text().splitlines()]

    _, _, readings = importers.read(FILES / "sglang_serve.jsonl", {})

    assert [reading.where["options"]["request_rate"] for reading in readings] == [2.0, 4.0]
    for raw, reading in zip(lines, readings, strict=True):
        made = raw["total_output_tokens"]
        assert values(reading) == {
            "request_ttft_s": pytest.approx(raw["median_ttft_ms"] / 1e3),
            "request_tpot_s": pytest.approx(raw["median_tpot_ms"] / 1e3),
            "request_e2e_s": pytest.approx(raw["median_e2e_latency_ms"] / 1e3),
            "served_output_tok_s": pytest.approx(made / raw["duration"]),
            "served_total_tok_s": pytest.approx(
                (raw["total_input_tokens"] + made) / raw["duration"]
            ),
        }
        assert [one.code for one in reading.warnings] == ["tokens_recounted"]
        assert (reading.where["model"], reading.version) == ("org/some-8b", "0.5.4")


def test_genai_perf_is_recomputed_from_its_summary() -> None:
    raw = load("genai_perf.json")

    tool, _, (reading,) = importers.read(FILES / "genai_perf.json", {})

    assert tool == "genai-perf"
    assert values(reading) == {
        "request_ttft_s": pytest.approx(raw["time_to_first_token"]["p50"] / 1e3),
        "request_tpot_s": pytest.approx(raw["inter_token_latency"]["p50"] / 1e3),
        "request_e2e_s": pytest.approx(raw["request_latency"]["p50"] / 1e3),
        "served_output_tok_s": pytest.approx(raw["request_throughput"]["avg"] * 12),
    }
    assert reading.where == {
        "model": "tiny-llama", "options": {"concurrency": 2}, "input_len": 32, "output_len": 12,
    }  # fmt: skip


def test_llmperf_is_recomputed_from_its_summary() -> None:
    raw = load("llmperf.json")
    duration_s = (
        60 * raw["results_num_completed_requests"] / raw["results_num_completed_requests_per_min"]
    )
    tokens = raw["results_number_output_tokens_mean"] * raw["results_num_completed_requests"]

    tool, _, (reading,) = importers.read(FILES / "llmperf.json", {})

    assert tool == "llmperf"
    assert values(reading) == {
        "request_ttft_s": raw["results_ttft_s_quantiles_p50"],
        "served_output_tok_s": pytest.approx(tokens / duration_s),
    }
    assert reading.where["options"]["num_concurrent_requests"] == 4
    assert [one.detail for one in reading.warnings] == ["2 of 42 requests failed"]


def test_inference_perf_is_recomputed_from_its_summary() -> None:
    raw = load("inference_perf.json")
    seconds, done = raw["benchmark_time_seconds"], raw["successes"]
    latency, prompts = done["latency"], done["throughput"]["input_tokens_per_sec"]

    _, _, (reading,) = importers.read(FILES / "inference_perf.json", {})

    assert values(reading) == {
        "request_ttft_s": latency["time_to_first_token"]["median"],
        "request_tpot_s": latency["time_per_output_token"]["median"],
        "served_output_tok_s": pytest.approx(done["output_tokens"]["total"] / seconds),
        "served_total_tok_s": pytest.approx(done["output_tokens"]["total"] / seconds + prompts),
    }
    assert reading.where == {"options": {"requested_rate": 4.0}, "input_len": 128, "output_len": 64}
    assert [one.detail for one in reading.warnings] == [
        "1 of 41 requests failed",
        "the client counted 2,553 new tokens in the text, and the server made 2,560",
    ]


def test_inference_perf_without_a_completed_request_is_refused(tmp_path: Path) -> None:
    def fail(held: Any) -> None:
        held["successes"]["count"], held["failures"]["count"] = 0, 41

    path = changed(tmp_path, "inference_perf.json", fail)

    assert complaint(path).endswith("0 of 41 requests were completed.")


def test_trtllm_is_recomputed_from_its_counts() -> None:
    raw = load("trtllm_bench.json")
    seconds, told = raw["performance"]["total_latency_ms"] / 1e3, raw["request_info"]
    made = told["num_requests"] * told["avg_output_length"]

    _, _, (reading,) = importers.read(FILES / "trtllm_bench.json", {})

    assert values(reading) == {
        "served_output_tok_s": pytest.approx(made / seconds),
        "served_total_tok_s": pytest.approx(
            (made + told["num_requests"] * told["avg_input_length"]) / seconds
        ),
    }
    assert (reading.where["model"], reading.where["dtype"]) == ("org/some-8b", "bfloat16")
    assert reading.where["options"]["quantization"] == "FP8"
    assert reading.where["options"]["tp_size"] == 1


def test_trtllm_whose_rate_is_not_its_tokens_over_its_time_is_refused(tmp_path: Path) -> None:
    def faster(held: Any) -> None:
        held["performance"]["system_output_throughput_tok_s"] *= 2

    path = changed(tmp_path, "trtllm_bench.json", faster)

    assert (
        "system_output_throughput_tok_s is 1280, but the file's other figures give 640"
        in complaint(path)
    )


# -- texts around and instead of JSON --------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig"])
def test_a_file_that_powershell_wrote_is_read(encoding: str, tmp_path: Path) -> None:
    text = (FILES / "llama_bench.jsonl").read_text()
    path = tmp_path / "a.jsonl"
    path.write_bytes((b"\xfe\xff" if encoding == "utf-16-be" else b"") + text.encode(encoding))

    assert importers.read(path, {})[2] == importers.read(FILES / "llama_bench.jsonl", {})[2]


LOGGED = "ggml_cuda_init: found 1 CUDA devices:\n  Device 0: NVIDIA L4, compute capability 8.9, VMM: yes\n"


@pytest.mark.parametrize("places", ["first", "between", "last"])
def test_lines_that_a_backend_logged_are_skipped(places: str, tmp_path: Path) -> None:
    first, *others = (FILES / "llama_bench.jsonl").read_text().splitlines(keepends=True)
    parts = {
        "first": [LOGGED, first, *others],
        "between": [first, LOGGED, *others],
        "last": [first, *others, LOGGED],
    }
    path = tmp_path / "a.jsonl"
    path.write_text("".join(parts[places]))

    assert importers.read(path, {})[2] == importers.read(FILES / "llama_bench.jsonl", {})[2]


def test_lists_that_were_appended_are_read(tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (FILES / "llama_bench.jsonl").read_text().splitlines()]
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps(lines[:2], indent=2) + "\n" + LOGGED + json.dumps(lines[2:], indent=2)
    )

    assert importers.read(path, {})[2] == importers.read(FILES / "llama_bench.jsonl", {})[2]


@pytest.mark.parametrize("at", [0, 1, -2])
def test_a_damaged_line_is_never_taken_for_a_log_line(at: int, tmp_path: Path) -> None:
    first, second, *others = (FILES / "llama_bench.jsonl").read_text().splitlines()
    damaged = list(second)
    damaged[at] = "x"
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join([first, "".join(damaged), *others]))

    assert "line 2 is truncated or not JSON" in complaint(path)


OTHERS = [
    ("build_commit,build_number,cpu_info,n_prompt,avg_ns,avg_ts\n1,2,3,4,5,6\n", "llama-bench's CSV.* -o jsonl"),
    ("| model                |       size | backend    | ngl |            test |              t/s |\n",
     "llama-bench's table.* -o jsonl"),
    ("CREATE TABLE IF NOT EXISTS test (\n  build_commit TEXT\n);\nINSERT INTO test (build_commit) VALUES ('1');\n",
     "llama-bench's SQL"),
    ("metadata:\n  version: 1\n  guidellm_version: 0.5.4\nbenchmarks: []\n", "GuideLLM.*YAML; write it as JSON"),
    ("============ Serving Benchmark Result ============\nSuccessful requests:   6\nBenchmark duration (s):  2.5\n",
     "printed summary.*--save-result"),
    ("====\nMLPerf Results Summary\n====\nSUT name : x\n", "MLPerf LoadGen's summary"),
    ("Run Info,Run Info,Request Latency,Time to First Token\nID,Name,Sec,ms\n", "GuideLLM's CSV"),
    ("Hardware,Num of Hardware,Framework,Model,Input Length\n", "Argonne's LLM-Inference-Bench"),
    ("name, latency (s), throughput (tokens/s), latency_per_sequence_output_token (ms)\n", "llm-foundry"),
    ("| Parameter | Value |\n| Sequence Length | 10 |\n| Decode Length | 8 |\n", "text-generation-benchmark"),
    ("model,batch,tokens\nx,1,2\n", "is not JSON: it begins with 'model,batch,tokens'"),
    (json.dumps({"kind": "sweep", "format": 1, "crc32": "0"}), "llmbench's own records"),
    (json.dumps({"results": {}, "versions": {}, "n-shot": {}}), "lm-evaluation-harness's results"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "says"), OTHERS, ids=[says for _, says in OTHERS])
def test_a_file_of_another_kind_is_called_what_it_is(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text)

    with pytest.raises(Unconvertible, match=says) as caught:
        importers.read(path, {})

    assert "truncated" not in str(caught.value)


# -- suspicious numbers ----------------------------------------------------------------------------


def warned(
    tmp_path: Path, name: str, change: Callable[[Any], None]
) -> tuple[importers.Reading, dict[str, str]]:
    reading = importers.read(changed(tmp_path, name, change), {})[2][0]
    return reading, {one.code: one.detail for one in reading.warnings}


def test_a_median_of_zero_before_tokens_is_said(tmp_path: Path) -> None:
    reading, told = warned(
        tmp_path, "vllm_serve.json", lambda held: held.update(median_ttft_ms=0.0)
    )

    assert "most of the 8 completed requests gave no token" in told["empty_answers"]
    assert "median_ttft_ms" in reading.refused


def test_completed_requests_without_a_token_are_counted(tmp_path: Path) -> None:
    def empty(held: Any) -> None:
        gone = held["output_lens"][0]
        held["output_lens"][0], held["ttfts"][0], held["itls"][0] = 0, 0.0, []
        held["total_output_tokens"] -= gone
        new, duration_s = held["total_output_tokens"], held["duration"]
        held["output_throughput"] = new / duration_s
        held["total_token_throughput"] = (new + held["total_input_tokens"]) / duration_s

    reading, told = warned(tmp_path, "vllm_serve_detailed.json", empty)

    assert told == {"empty_answers": "1 of 8 completed requests gave no token"}
    ttfts = sorted(load("vllm_serve_detailed.json")["ttfts"][1:])
    assert values(reading)["request_ttft_s"] == ttfts[3]
    assert "requests without a token" in reading.refused["median_ttft_ms"]


def test_guidellms_requests_without_a_token_are_counted(tmp_path: Path) -> None:
    def empty(held: Any) -> None:
        request = held["benchmarks"][0]["requests"]["successful"][0]
        request["output_tokens"] = 0
        request["info"]["timings"] |= {"first_token_iteration": None, "last_token_iteration": None}

    reading, told = warned(tmp_path, "guidellm.json", empty)

    assert told == {"empty_answers": "1 of 8 completed requests gave no token"}
    assert len(reading.given["request_ttft_s"].samples) == 7


def test_requests_that_were_not_streamed_are_said_to_be(tmp_path: Path) -> None:
    def whole(held: Any) -> None:
        for request in held["benchmarks"][0]["requests"]["successful"]:
            request["info"]["timings"]["first_token_iteration"] = None

    reading, _ = warned(tmp_path, "guidellm.json", whole)

    assert reading.refused["times of tokens"] == "the requests were not streamed"


def test_an_answer_of_aiperf_without_a_token_is_said(tmp_path: Path) -> None:
    _, told = warned(
        tmp_path, "aiperf.json", lambda held: held["output_sequence_length"].update(min=0)
    )

    assert told["empty_answers"] == "at least one completed request gave no token"


@pytest.mark.parametrize("key", ["median_ttft_ms", "median_tpot_ms", "median_itl_ms"])
def test_a_median_that_is_nan_is_left_out_by_name(key: str, tmp_path: Path) -> None:
    reading, _ = warned(tmp_path, "vllm_serve.json", lambda held: held.update({key: math.nan}))

    assert "is NaN" in reading.refused[key]
    assert len(reading.given) == 4


def test_a_rate_that_is_nan_is_named(tmp_path: Path) -> None:
    path = changed(
        tmp_path, "vllm_serve.json", lambda held: held.update(output_throughput=math.nan)
    )

    assert "output_throughput: nan" in complaint(path)


@pytest.mark.parametrize(
    ("asked_for", "failed", "detail"),
    [(1000, 0, None), (10, 2, "2 of 10 requests failed"), (50, None, "42 of 50 requests failed")],
)
def test_requests_have_failed_if_the_file_says_so(
    asked_for: int, failed: int | None, detail: str | None, tmp_path: Path
) -> None:
    def change(held: Any) -> None:
        held["num_prompts"] = asked_for
        held["failed"] = failed

    _, told = warned(tmp_path, "vllm_serve.json", change)

    assert told == ({"requests_failed": detail} if detail else {})


def test_a_table_says_how_many_requests_failed(tmp_path: Path) -> None:
    path = changed(
        tmp_path, "vllm_serve.json", lambda held: held.update(num_prompts=500, failed=492)
    )
    imported(tmp_path / "run", path)

    assert "492 of 500 requests failed." in asked("table", tmp_path / "run").out


# -- after the import ------------------------------------------------------------------------------


def test_an_imported_server_is_exported_under_vllms_keys(tmp_path: Path) -> None:
    raw = load("vllm_serve.json")
    imported(tmp_path / "run", "vllm_serve.json")

    (told,) = json.loads(asked("export", tmp_path / "run").out)

    keys = (
        "median_ttft_ms",
        "median_tpot_ms",
        "median_itl_ms",
        "output_throughput",
        "total_token_throughput",
    )
    assert {key: told[key] for key in keys} == {key: pytest.approx(raw[key]) for key in keys}
    assert (told["model_id"], told["in_process"]) == (raw["model_id"], False)


def test_what_vllm_has_no_key_for_is_refused(tmp_path: Path) -> None:
    imported(tmp_path / "run", "llama_bench.jsonl")

    answer = asked("export", tmp_path / "run")

    assert (answer.code, answer.out) == (int(cli.run(["export", "nowhere"])), "")
    assert "no cell of run has a number that vLLM's benchmarks have a key for" in answer.err
    assert store.read(tmp_path / "run").imported is not None


def compared(*runs: Path) -> tuple[int, Any, str]:
    answer = asked("compare", *runs, "--cross-machine", "--format", "json")
    return answer.code, json.loads(answer.out) if answer.out else None, answer.err


def test_imports_are_compared_by_the_first_metric_that_all_have(tmp_path: Path) -> None:
    slower = changed(
        tmp_path,
        "vllm_serve.json",
        lambda held: held.update(median_ttft_ms=2 * held["median_ttft_ms"]),
    )
    imported(tmp_path / "a", "vllm_serve.json")
    imported(tmp_path / "b", slower)

    _, told, _ = compared(tmp_path / "a", tmp_path / "b")

    assert told["metric"] == "request_ttft_s"
    assert told["candidates"][0]["cells"][0]["ratio"] == pytest.approx(2)
    assert "Compared by request_ttft_s, the first metric that all runs have" in told["notices"][0]


def test_imports_without_a_metric_in_common_say_what_each_has(tmp_path: Path) -> None:
    imported(tmp_path / "a", "vllm_serve.json")
    imported(tmp_path / "b", "llama_bench.jsonl")

    code, _, told = compared(tmp_path / "a", tmp_path / "b")

    assert code == 2
    assert "no metric is in every run: a has request_itl_s, " in told
    assert "; b has forward_decode_tok_s, " in told


def test_a_served_rate_has_a_price(tmp_path: Path) -> None:
    imported(tmp_path / "run", "vllm_serve.json")
    raw = load("vllm_serve.json")

    for charge, key, rate in (
        ("output", "output", "output_throughput"),
        ("total", "token", "total_token_throughput"),
    ):
        command = (
            "cost",
            tmp_path / "run",
            "--usd-per-hour",
            "2",
            "--charge",
            charge,
            "--format",
            "json",
        )
        (told,) = json.loads(asked(*command).out)["cells"]
        assert told[f"usd_per_1m_{key}"] == pytest.approx(2 / 3600 / raw[rate] * 1e6)
    assert (
        "that --charge split divides by"
        in asked("cost", tmp_path / "run", "--usd-per-hour", "2", "--charge", "split").err
    )
