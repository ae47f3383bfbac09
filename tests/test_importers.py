"""Other tools' files: what is taken is worked out again from their raw numbers; what is refused says why."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmbench import cli, importers
from llmbench.errors import LlmbenchError, Unconvertible
from llmbench.importers import fields
from llmbench.results import store, table
from llmbench.results.record import Outcome  # noqa: TC001 - msgspec reads the annotations
from llmbench.results.sessions import RecordedSession
from llmbench.spec.sweep import NOT_SAID, Point
from mutations import places
from pages import shown as printed

FILES = Path(__file__).parent / "importers"
FIXTURES = sorted(path for path in FILES.iterdir() if path.suffix in {".json", ".jsonl"})


class Whole(RecordedSession):
    """A record with all of its outcome."""

    outcome: Outcome  # type: ignore[assignment]


def load(name: str) -> Any:
    return json.loads((FILES / name).read_text())


def taken(name: str, **said: str | int) -> importers.Reading:
    """Return the only reading of a fixture."""
    _, _, readings = importers.read(FILES / name, said)
    assert len(readings) == 1
    return readings[0]


def values(reading: importers.Reading) -> dict[str, float]:
    return {key: one.value for key, one in reading.given.items()}


def imported(folder: Path, *files: Path | str, flags: tuple[str, ...] = ()) -> table.Table:
    """Import files into a folder and return the run's table."""
    paths = [str(FILES / file) for file in files]
    assert cli.run(["import", *paths, "-o", str(folder), *flags]) == 0
    return table.build(store.read(folder))


def shown(made: table.Table) -> dict[str, float]:
    """Return the metrics of a table of one row."""
    return {numbers.metric.key: float(numbers.middle[0]) for numbers in made.numbers}


def changed(tmp_path: Path, name: str, change: Any) -> Path:
    """Return a copy of a fixture with a change made to its JSON."""
    held = load(name)
    change(held)
    path = tmp_path / name
    path.write_text(json.dumps(held))
    return path


def complaint(path: Path, **said: str | int) -> str:
    with pytest.raises(Unconvertible) as caught:
        importers.read(path, said)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.name)
def test_every_file_is_of_one_tool_only(path: Path) -> None:
    document = fields.read(path)

    fitting = [name for name in importers.known() if importers._module(name).recognises(document)]

    assert len(fitting) == 1


def test_every_importer_has_a_fixture() -> None:
    tools = {importers.read(path, {})[0] for path in FIXTURES}

    assert tools == {importers._module(name).TOOL for name in importers.known()}


def test_latency_is_kept_as_samples_of_the_whole_batch() -> None:
    raw = load("vllm_latency.json")

    reading = taken("vllm_latency.json")

    assert [sample.e2e_ns for sample in reading.samples] == [
        round(seconds * 1e9) for seconds in raw["latencies"]
    ]
    assert np.median(raw["latencies"]) == pytest.approx(raw["percentiles"]["50"])
    assert reading.given == {}


def test_latency_has_rates_once_its_shape_is_told(tmp_path: Path) -> None:
    median_s = np.median(load("vllm_latency.json")["latencies"])
    shape = ("--batch-size", "4", "--input-len", "32", "--output-len", "16")

    bare = shown(imported(tmp_path / "bare", "vllm_latency.json"))
    told = shown(imported(tmp_path / "told", "vllm_latency.json", flags=shape))

    assert bare == {"e2e_s": pytest.approx(median_s)}
    assert told["output_tok_s"] == pytest.approx(4 * 16 / median_s)
    assert told["total_tok_s"] == pytest.approx(4 * (32 + 16) / median_s)
    assert "ttft_s" not in told
    assert "tpot_s" not in told


def test_throughput_that_counts_prompts_is_never_output(tmp_path: Path) -> None:
    raw = load("vllm_throughput.json")

    made = shown(imported(tmp_path, "vllm_throughput.json"))

    assert made["total_tok_s"] == pytest.approx(raw["total_num_tokens"] / raw["elapsed_time"])
    assert made["total_tok_s"] == pytest.approx(raw["tokens_per_second"])
    assert "output_tok_s" not in made


def test_lengths_that_do_not_make_the_tokens_counted_are_refused() -> None:
    text = complaint(FILES / "vllm_throughput.json", input_len=32, output_len=16)

    assert "8 requests of 32 + 16 tokens are 384, and the file counts 386" in text


def test_serve_is_recomputed_from_its_requests() -> None:
    raw = load("vllm_serve_detailed.json")
    ttft = np.array(raw["ttfts"])
    after = np.array([sum(gaps) for gaps in raw["itls"]])
    n = np.array(raw["output_lens"])

    got = values(taken("vllm_serve_detailed.json"))

    assert got == {
        "request_ttft_s": pytest.approx(np.median(ttft)),
        "request_tpot_s": pytest.approx(np.median(after / (n - 1))),
        "request_itl_s": pytest.approx(np.median(np.concatenate(raw["itls"]))),
        "request_e2e_s": pytest.approx(np.median(ttft + after)),
        "served_output_tok_s": pytest.approx(n.sum() / raw["duration"]),
        "served_total_tok_s": pytest.approx((n.sum() + sum(raw["input_lens"])) / raw["duration"]),
    }
    for ours, theirs in (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2e", "e2el")):
        assert got[f"request_{ours}_s"] * 1e3 == pytest.approx(raw[f"median_{theirs}_ms"], rel=1e-3)


def test_serve_without_requests_gives_its_medians_and_no_lengths() -> None:
    raw = load("vllm_serve.json")

    reading = taken("vllm_serve.json")

    assert values(reading)["request_ttft_s"] == pytest.approx(raw["median_ttft_ms"] / 1e3)
    assert "request_e2e_s" not in reading.given
    assert reading.where["input_len"] is None
    assert all(one.samples == [] for one in reading.given.values())


def test_nothing_of_a_server_is_called_as_ours_is() -> None:
    for name in ("vllm_serve.json", "vllm_serve_detailed.json", "guidellm.json", "aiperf.json"):
        keys = taken(name).given.keys()
        assert keys
        assert all(key.startswith(("request_", "served_")) for key in keys)


def test_a_median_of_zero_is_none(tmp_path: Path) -> None:
    def one_token(held: Any) -> None:
        held["median_tpot_ms"] = held["median_itl_ms"] = 0.0

    path = changed(tmp_path, "vllm_serve.json", one_token)

    reading = importers.read(path, {})[2][0]

    assert set(reading.given) == {"request_ttft_s", "served_output_tok_s", "served_total_tok_s"}


def test_failed_requests_are_told(tmp_path: Path) -> None:
    def fail(held: Any) -> None:
        held["num_prompts"] = 10
        held["failed"] = 2

    reading = importers.read(changed(tmp_path, "vllm_serve.json", fail), {})[2][0]

    assert [(one.code, one.detail) for one in reading.warnings] == [
        ("requests_failed", "2 of 10 requests failed")
    ]


def test_no_completed_request_is_no_result(tmp_path: Path) -> None:
    path = changed(tmp_path, "vllm_serve.json", lambda held: held.update(completed=0))

    assert "0 of 8 requests were completed" in complaint(path)


def test_guidellm_is_recomputed_from_its_requests() -> None:
    benchmark = load("guidellm.json")["benchmarks"][0]
    requests = benchmark["requests"]["successful"]
    times = [request["info"]["timings"] for request in requests]
    start, first, last = (
        np.array([one[key] for one in times])
        for key in ("request_start", "first_token_iteration", "last_token_iteration")
    )
    n = np.array([request["output_tokens"] for request in requests])
    prompts = np.array([request["prompt_tokens"] for request in requests])

    got = values(taken("guidellm.json"))

    assert got == {
        "request_ttft_s": pytest.approx(np.median(first - start)),
        "request_tpot_s": pytest.approx(np.median((last - first) / (n - 1))),
        "request_e2e_s": pytest.approx(np.median(last - start)),
        "served_output_tok_s": pytest.approx(n.sum() / benchmark["duration"], rel=1e-3),
        "served_total_tok_s": pytest.approx((n + prompts).sum() / benchmark["duration"], rel=1e-3),
    }


def test_guidellm_time_per_output_token_is_no_tpot() -> None:
    told = load("guidellm.json")["benchmarks"][0]["metrics"]["time_per_output_token_ms"]

    reading = taken("guidellm.json")

    assert reading.given["request_tpot_s"].value * 1e3 != pytest.approx(
        told["successful"]["median"], rel=0.1
    )
    assert "no TPOT" in reading.refused["time_per_output_token_ms"]


def test_guidellm_with_a_part_of_its_requests_has_rates_only(tmp_path: Path) -> None:
    def cut(held: Any) -> None:
        del held["benchmarks"][0]["requests"]["successful"][3:]

    reading = importers.read(changed(tmp_path, "guidellm.json", cut), {})[2][0]

    assert set(reading.given) == {"served_output_tok_s", "served_total_tok_s"}
    assert reading.refused["requests"] == "3 of 8 are in the file, and a median needs all of them"
    assert reading.where["output_len"] is None


def test_llama_bench_is_recomputed_from_its_repetitions() -> None:
    tests = [json.loads(line) for line in (FILES / "llama_bench.jsonl").read_text().splitlines()]

    _, _, readings = importers.read(FILES / "llama_bench.jsonl", {})

    assert len(readings) == len(tests) == 6
    for test, reading in zip(tests, readings, strict=True):
        ((key, one),) = reading.given.items()
        tokens = test["n_prompt"] + test["n_gen"]
        rates = [tokens / ns * 1e9 for ns in test["samples_ns"]]
        assert one.value == pytest.approx(tokens / np.median(test["samples_ns"]) * 1e9)
        assert one.samples == pytest.approx(rates)
        assert np.mean(rates) == pytest.approx(test["avg_ts"], rel=1e-4)
        assert key == {(64, 0): "forward_prefill_tok_s", (0, 16): "forward_decode_tok_s",
                       (64, 16): "forward_total_tok_s"}[test["n_prompt"], test["n_gen"]]  # fmt: skip


def test_llama_bench_as_one_list_reads_the_same(tmp_path: Path) -> None:
    lines = (FILES / "llama_bench.jsonl").read_text().splitlines()
    path = tmp_path / "list.json"
    path.write_text("[" + ",\n".join(lines) + "]")

    assert importers.read(path, {})[2] == importers.read(FILES / "llama_bench.jsonl", {})[2]


def test_a_mean_alone_is_refused(tmp_path: Path) -> None:
    test = json.loads((FILES / "llama_bench.jsonl").read_text().splitlines()[0])
    del test["samples_ns"]
    path = tmp_path / "mean.jsonl"
    path.write_text(json.dumps(test))

    assert "only a mean, which is not a median; write the file with -o jsonl" in complaint(path)


def test_the_same_test_twice_in_one_process_is_no_second_session(tmp_path: Path) -> None:
    line = (FILES / "llama_bench.jsonl").read_text().splitlines()[0]
    path = tmp_path / "twice.jsonl"
    path.write_text(f"{line}\n{line}\n")

    command = ["import", str(path), "-o", str(tmp_path / "run")]
    assert cli.run([*command, "--as-sessions"]) == 2
    assert not (tmp_path / "run").exists()
    assert cli.run(command) == 0
    assert len(table.build(store.read(tmp_path / "run")).cells) == 2


def test_several_processes_of_one_cell_are_its_sessions(tmp_path: Path) -> None:
    def slower(held: Any) -> None:
        held["latencies"] = [seconds * 1.1 for seconds in held["latencies"]]
        held["avg_latency"] *= 1.1
        held["percentiles"]["50"] *= 1.1

    second = changed(tmp_path, "vllm_latency.json", slower)

    shape = ("-m", "llama-7b", "--batch-size", "4", "--input-len", "32", "--output-len", "16")
    apart = imported(tmp_path / "apart", "vllm_latency.json", second, flags=shape)
    made = imported(tmp_path / "run", "vllm_latency.json", second, flags=(*shape, "--as-sessions"))

    assert len(apart.cells) == 2  # nothing in the files says that they are sessions
    assert len(made.cells) == 1
    assert all(numbers.sessions.tolist() == [2] for numbers in made.numbers)
    assert all(math.isfinite(numbers.half_width[0]) for numbers in made.numbers)


def test_files_that_do_not_say_their_model_are_no_sessions_of_one(tmp_path: Path) -> None:
    second = changed(tmp_path, "vllm_latency.json", lambda held: held.update(more=1))

    made = imported(tmp_path / "run", "vllm_latency.json", second)

    assert len(made.cells) == 2
    assert all(not np.isfinite(numbers.half_width).any() for numbers in made.numbers)


def test_two_builds_are_no_sessions_of_one(tmp_path: Path) -> None:
    text = (FILES / "llama_bench.jsonl").read_text()
    second = tmp_path / "second.jsonl"
    second.write_text(text.replace("0c1e570", "ffffff0"))

    made = imported(tmp_path / "run", "llama_bench.jsonl", second)

    assert len(made.cells) == 12
    assert made.valid.tolist() == [1] * 12


def test_several_files_of_one_server_are_no_sessions(tmp_path: Path) -> None:
    second = changed(tmp_path, "vllm_serve.json", lambda held: held.update(date="20261126-015200"))

    made = imported(tmp_path / "run", "vllm_serve.json", second)

    assert len(made.cells) == 2
    assert all(not np.isfinite(numbers.half_width).any() for numbers in made.numbers)


def test_one_file_has_no_interval(tmp_path: Path) -> None:
    for path in FIXTURES:
        made = imported(tmp_path / path.name, path)
        assert made.numbers
        assert all(not np.isfinite(numbers.half_width).any() for numbers in made.numbers)


def test_the_same_file_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(FILES / "vllm_latency.json")

    code = cli.run(["import", path, path, "-o", str(tmp_path / "run")])

    assert code == 2
    assert "give each session's file once" in capsys.readouterr().err


def test_what_is_not_said_stays_open(tmp_path: Path) -> None:
    imported(tmp_path, "vllm_latency.json")

    (record,) = store.read(tmp_path).records(Whole)
    point = msgspec.json.decode(record.cell, type=Point)

    assert (point.batch_size, point.input_len, point.output_len) == (None, None, None)
    assert (point.model, point.dtype, point.device) == (NOT_SAID, NOT_SAID, NOT_SAID)
    assert record.outcome.memory is None
    assert record.outcome.load_s is None


def test_a_record_says_where_each_number_is_from(tmp_path: Path) -> None:
    for path in FIXTURES:
        folder = tmp_path / path.name
        imported(folder, path)
        for record in store.read(folder).records(Whole):
            source = record.outcome.imported
            assert source is not None
            assert source.file == path.name
            assert source.refused
            assert bool(source.samples) == bool(record.outcome.samples)
            assert all(one.definition and one.clock for one in record.outcome.given.values())
            assert "imported" in {finding.code for finding in record.warnings}


def test_each_row_names_its_tool_and_claims_no_default(tmp_path: Path) -> None:
    made = imported(tmp_path, "vllm_serve.json", "guidellm.json")
    axes = {axis.name: axis.values for axis in made.axes}

    assert axes["tool"] == ("vllm bench serve", "guidellm")
    assert axes["strategy"] == (NOT_SAID, "concurrent")


def test_a_flag_may_add_and_not_contradict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["import", str(FILES / "guidellm.json"), "-o", str(tmp_path / "run")]

    code = cli.run([*arguments, "--output-len", "13"])

    assert code == 2
    assert "--output-len: 13 contradicts guidellm.json, which says 12" in capsys.readouterr().err


def test_a_run_is_never_imported_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported(tmp_path, "vllm_latency.json")

    code = cli.run(["import", str(FILES / "vllm_serve.json"), "-o", str(tmp_path)])

    assert code == 2
    assert "already contains a run" in capsys.readouterr().err


def test_a_sweep_adds_nothing_to_an_import(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(tmp_path, "vllm_latency.json")
    fake = ("--backend", "fake", "--model", "llama-7b@tiny", "--device", "cpu")

    code = cli.run(["sweep", *fake, "-o", str(tmp_path)])

    assert code == 2
    assert "give the sweep a folder of its own" in capsys.readouterr().err


@pytest.mark.parametrize("format", ["terminal", "markdown", "csv", "json"])
def test_every_format_shows_every_import(format: str, tmp_path: Path) -> None:
    made = imported(tmp_path, *FIXTURES)

    text = printed(made, format)

    assert "nan" not in text.lower()
    assert "0x" not in text


@pytest.mark.parametrize(
    "name", ["../../etc/\x1b[31m<script>=1+1|`", "\ud800", "a\u2028b\nc", "x" * 9999]
)
def test_a_hostile_name_is_only_a_name(name: str, tmp_path: Path) -> None:
    path = changed(tmp_path, "vllm_serve.json", lambda held: held.update(model_id=name))

    made = imported(tmp_path / "run", path)

    assert "\x1b" not in printed(made, "terminal")
    assert set(made.cells[0].id) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@=.-"
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("hello", "not JSON"),
        ("{}", "is not a result file of aiperf or genai-perf or guidellm or inference-perf or llama-bench or"),
        ("[]", "is not a result file of aiperf or genai-perf or guidellm or inference-perf or llama-bench or"),
        ("null", "is not a result file of aiperf or genai-perf or guidellm or inference-perf or llama-bench or"),
        ('{"latencies": [1', "is truncated or not JSON"),
        ('{"a": 1, "a": 2}', "the key 'a' occurs twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": 1}\n{"a": ', "line 2 is truncated"),
        ('{"avg_latency": NaN, "latencies": [NaN], "percentiles": {}}', "nan is not a number above zero"),
        ('{"avg_latency": 1, "latencies": [1, 1e400], "percentiles": {}}', "inf is not a number"),
        ('{"avg_latency": 1, "latencies": [], "percentiles": {}}', "latencies: is empty"),
        ('{"avg_latency": 1, "latencies": [true], "percentiles": {}}', "True is not a number"),
        ('{"avg_latency": 2, "latencies": [1.0], "percentiles": {"50": 1}}', "the file's other figures give 1;"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_why(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(text)

    assert says in complaint(path)


def test_bytes_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b"\x89PNG\r\n")

    assert "is not text" in complaint(path)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    assert "No such file" in complaint(tmp_path / "nowhere.json")
    assert "is a folder" in complaint(tmp_path)
    assert "is a device" in complaint(Path("/dev/zero"))


def test_an_importer_asked_for_reads_nothing_else() -> None:
    with pytest.raises(Unconvertible, match="is not a result file of llama-bench"):
        importers.read(FILES / "vllm_serve.json", {}, "llama_bench")
    with pytest.raises(Unconvertible, match="Did you mean 'guidellm'"):
        importers.read(FILES / "vllm_serve.json", {}, "guidelm")


def documents(path: Path) -> list[Any]:
    text = path.read_text()
    return (
        [json.loads(line) for line in text.splitlines()]
        if path.suffix == ".jsonl"
        else [json.loads(text)]
    )


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.just([]), st.just({}), st.sampled_from([0, -1, 1e308, 10**400, "\x1b[2J", "1"]),
)  # fmt: skip
WHOLE = {path.name: documents(path) for path in FIXTURES}
PLACES = {name: list(places(held)) for name, held in WHOLE.items()}


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_changed_file_is_refused_or_read_rightly(data: st.DataObject, tmp_path: Path) -> None:
    path = data.draw(st.sampled_from(FIXTURES))
    held = json.loads(json.dumps(WHOLE[path.name]))
    *parents, last = data.draw(st.sampled_from(PLACES[path.name]))
    inside = held
    for key in parents:
        inside = inside[key]
    if data.draw(st.booleans()):
        del inside[last]
    elif isinstance(inside[last], int | float) and data.draw(st.booleans()):
        inside[last] = inside[last] * data.draw(st.sampled_from([2, 10, 0.5, 1000, -1]))
    else:
        inside[last] = data.draw(ODD)
    copy = tmp_path / path.name
    copy.write_text("\n".join(map(json.dumps, held)))

    found = outcome_of(copy)

    if isinstance(found, str):
        assert "\n" not in found
        return
    assert all(
        value > 0 and math.isfinite(value) for reading in found for value in reading.values()
    )
    if not UNSEEN.get(path.name, frozenset()).intersection((*parents, last)):
        before = outcome_of(path)
        assert not isinstance(before, str)
        for reading in found:
            assert_no_other_number(reading, before)


MEDIANS = ("median_ttft_ms", "median_tpot_ms", "median_itl_ms")
UNSEEN = {
    "vllm_serve.json": frozenset(MEDIANS),
    "aiperf.json": frozenset({"p50"}),
    "genai_perf.json": frozenset({"p50"}),
    "inference_perf.json": frozenset({"median", "output_tokens", "total"}),
    "llmperf.json": frozenset({"results_ttft_s_quantiles_p50"}),
    "sglang_serve.jsonl": frozenset({*MEDIANS, "median_e2e_latency_ms"}),
}
"""What a file says once only, so that nobody can see that it was changed."""


def assert_no_other_number(reading: dict[str, float], before: list[dict[str, float]]) -> None:
    """Hold a reading to the numbers of one before: some may be gone, none may be another."""
    assert any(
        all(
            key in one and math.isclose(value, one[key], rel_tol=2e-3)
            for key, value in reading.items()
        )
        for one in before
    ), reading


def outcome_of(path: Path) -> list[dict[str, float]] | str:
    """Return the numbers of a file, or the line that refuses it."""
    try:
        _, _, readings = importers.read(path, {})
    except LlmbenchError as refused:
        return str(refused)
    return [
        {
            **values(reading),
            **{f"sample {n}": float(one.e2e_ns or 0) for n, one in enumerate(reading.samples)},
        }
        for reading in readings
    ]


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_cut_or_flipped_file_gives_no_traceback(data: st.DataObject, tmp_path: Path) -> None:
    path = data.draw(st.sampled_from(FIXTURES))
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    copy = tmp_path / path.name
    if data.draw(st.booleans()):
        copy.write_bytes(whole[:at])
    else:
        copy.write_bytes(whole[:at] + bytes([data.draw(st.integers(0, 255))]) + whole[at + 1 :])

    found = outcome_of(copy)

    assert isinstance(found, str) or all(
        value > 0 and math.isfinite(value) for reading in found for value in reading.values()
    )


def test_one_definition_is_worded_alike_by_every_tool() -> None:
    words: dict[str, set[str]] = {}
    for name in ("vllm_serve.json", "vllm_serve_detailed.json", "guidellm.json", "aiperf.json"):
        for key, one in taken(name).given.items():
            words.setdefault(key, set()).add(one.definition)

    assert all(len(definitions) == 1 for definitions in words.values())


# -- the machine --------------------------------------------------------------------------------------


def latencies(folder: Path, name: str, seconds: float, machine: str) -> Path:
    """Import three sessions of a batch of 8 on a machine, a percent apart, and return the run."""
    paths = []
    for session, by in enumerate((0.99, 1.0, 1.01), 1):
        calls = [seconds * by * wobble for wobble in (0.999, 1.0, 1.001)]
        held = {
            "avg_latency": sum(calls) / 3,
            "latencies": calls,
            "percentiles": {"10": calls[0], "50": calls[1], "90": calls[2]},
        }
        paths.append(folder / f"{name}-{session}.json")
        paths[-1].write_text(json.dumps(held))
    flags = (
        "--machine", machine, "--model", "llama-2-7b", "--batch-size", "8", "--input-len", "256",
        "--output-len", "128", "--as-sessions",
    )  # fmt: skip
    imported(folder / name, *paths, flags=flags)
    return folder / name


@pytest.mark.parametrize(
    ("claim", "machine", "price", "seconds", "verdict"),
    [
        ("amd-tpu-parity", "AMD Instinct MI300X OAM", "runpod", 4.0, "supported"),
        ("amd-tpu-parity", "mi300x", "runpod", 8.0, "contradicted"),
        ("amd-tpu-parity", "TPU v5 lite", "h100-sxm=3,tpu-v5e=1", 8.0, "supported"),
        ("sambanova-one-thirtieth", "sn40l", "h100-sxm=3,sn40l=3", 0.1, "supported"),
        ("sambanova-one-thirtieth", "sn40l", "runpod,sn40l=3.49", 4.0, "contradicted"),
        ("cpu-and-gpu-in-one-package", "NVIDIA GH200 480GB", "lambda", 2.0, "supported"),
        ("cpu-and-gpu-in-one-package", "gh200-96gb", "lambda", 4.0, "contradicted"),
    ],
)
def test_an_imported_machine_settles_a_claim(
    claim: str, machine: str, price: str, seconds: float, verdict: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    runs = [
        latencies(tmp_path, "nvidia", 4.0, "NVIDIA H100 80GB HBM3"),
        latencies(tmp_path, "other", seconds, machine),
    ]
    capsys.readouterr()

    code = cli.run(
        ["claims", *map(str, runs), "--claim", claim, "--price", price, "--format", "json"]
    )

    [found] = json.loads(capsys.readouterr().out)
    assert code == 0
    assert found["verdict"] == verdict
    assert {cell["run"] for cell in found["parts"][0]["cells"]} == {"nvidia", "other"}


def test_llama_bench_of_a_phone_settles_its_claim(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (FILES / "llama_bench.jsonl").read_text().splitlines()
    step = next(test for test in map(json.loads, lines) if test["n_gen"] and not test["n_prompt"])
    paths = []
    for session, seconds in enumerate((1.0, 1.01, 0.99), 1):
        ns = [round(seconds * 1e9)] * len(step["samples_ns"])
        rate = step["n_gen"] / seconds
        step |= {"samples_ns": ns, "avg_ns": ns[0], "avg_ts": rate, "model_type": "llama 7B Q4_0"}
        paths.append(tmp_path / f"{session}.jsonl")
        paths[-1].write_text(json.dumps(step) + "\n")
    imported(
        tmp_path / "phone",
        *paths,
        flags=("--model", "llama-2-7b", "--machine", "SM8550", "--as-sessions"),
    )
    capsys.readouterr()

    cli.run(
        ["claims", str(tmp_path / "phone"), "--claim", "phone-runs-llama-2", "--format", "json"]
    )

    [found] = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "supported"
    assert found["parts"][0]["measured"] == "3.79 GB,"  # 6.74B parameters at 4.5 bits
    assert found["parts"][0]["value"] == pytest.approx(16, rel=0.001)


def test_a_table_says_on_which_machine_it_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    imported(tmp_path / "run", "vllm_latency.json", flags=("--machine", "AMD Instinct MI300X"))

    assert "vllm bench latency, on mi300x: 1 cell" in " ".join(capsys.readouterr().out.split())


def test_an_unknown_machine_is_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(FILES / "vllm_latency.json"), "-o", str(tmp_path / "run")]

    code = cli.run(["import", *files, "--machine", "mi300"])

    assert code == 2
    assert (
        "--machine: 'mi300' is not a known chip. Did you mean 'mi300x'?" in capsys.readouterr().err
    )
    assert not (tmp_path / "run").exists()


def test_an_import_without_a_machine_is_read_as_before(tmp_path: Path) -> None:
    imported(tmp_path / "run", "vllm_latency.json")

    assert store.read(tmp_path / "run").imported is not None
    assert '"machine":""' in (tmp_path / "run" / "records.jsonl").read_text().splitlines()[0]


def test_a_long_import_says_which_file_it_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("llmbench.commands.import.TELL_EVERY_S", -1.0)

    imported(tmp_path / "run", "vllm_serve.json", "llama_bench.jsonl")

    assert "Reading llama_bench.jsonl, 2 of 2 files." in capsys.readouterr().err
