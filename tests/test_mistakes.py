"""What a user gets wrong is said in one line, before anything runs: where, what, and what instead (FAULTS 19 to 21)."""

from pathlib import Path

import pytest

from llmbench import cli
from llmbench.results.record import Status
from sweeps import Bench

SWEEP = """\
name: x
why: y
axes:
  model: llama-7b@tiny
  backend: {fake: {clock: virtual}}
  batch_size: 1
  input_len: 8
  output_len: 4
  device: cpu
protocol: {sessions: 1, max_sessions: 1}
"""

MISTAKES = {
    # YAML itself
    ("device: cpu", "device: cpu\nname: z"): 'sweep.yaml:10: found duplicate key "name"',
    ("why: y", "\twhy: y"): "sweep.yaml:2: found character 'tab' that cannot start any token; use spaces.",
    ("why: y", "why: !!python/object:os.system x"): "sweep.yaml:2: could not determine a constructor",
    ("why: y", "why: *nope"): "sweep.yaml:2: found alias 'nope', which is not supported: write the value out",
    ("why: y", 'why: "y'): "sweep.yaml:2: found unexpected end of stream; this is never closed.",
    ("why: y", 'why: "\\ud83d\\ude00"'): "sweep.yaml: why: '\\ud83d\\ude00' contains half a character; write "
        "the character itself",
    ("why: y", "why: [a"): "sweep.yaml:3: expected ',' or ']'",
    ("why: y", "why: " + "[" * 2000 + "]" * 2000): "sweep.yaml: is nested too deeply",
    ("why: y", "why: [a]"): "sweep.yaml: why: expected text, got a list.",
    ("name: x\n", ""): "sweep.yaml: the key 'name' is missing.",
    ("axes:", "axis:"): "sweep.yaml: unknown key 'axis'. Did you mean 'axes'?",
    # words of YAML 1.1
    ("size: 1", "size: no"): "batch_size: 'no' is not a whole number or a range such as 1-64*2",
    ("size: 1", "size: 12:30:00"): "batch_size: '12:30:00' is not a whole number",
    ("size: 1", "size: 1e3"): "axes.batch_size: expected a whole number or text or a list, got a number",
    ("size: 1", "size: 1.5"): "axes.batch_size: expected a whole number or text or a list, got a number",
    ("size: 1", "size: true"): "axes.batch_size: expected a whole number or text or a list, got true or false",
    ("size: 1", "size: [1, 1.5]"): "axes.batch_size[1]: expected a whole number, got a number",
    # numbers
    ("size: 1", "size: 0"): "batch_size: 0 is not possible; it must be at least 1",
    ("size: 1", "size: -1"): "batch_size: -1 is not possible",
    ("size: 1", "size: 1000000000000"): "batch_size: 1000000000000 is not possible",
    ("size: 1", "size: 8-1"): "batch_size: '8-1' is an empty or endless range",
    ("size: 1", "size: 1-8*1"): "batch_size: '1-8*1' is an empty or endless range",
    ("size: 1", "size: 1-1000000"): "batch_size: '1-1000000' has over 10000 values",
    ("input_len: 8", "input_len: 0"): "input_len: 0 is not possible",
    ("input_len: 8", "input_len: 2045"): "batch_size=1, input_len=2045, output_len=4, clock=virtual: 2049 tokens",
    # names
    ("size: 1", "sizes: 1"): "axes: unknown key 'batch_sizes'. Did you mean 'batch_size'?",
    ("device: cpu", "dtype: fp61"): "dtype: unknown value 'fp61'.",
    ("llama-7b@tiny", "lama-7b@tiny"): "folder or hub id. Did you mean 'llama-7b@tiny'?",
    ("device: cpu", "dtype: float31"): "dtype: unknown value 'float31'. Did you mean 'float32'?",
    ("device: cpu", "device: cuda:9"): "device: unknown value 'cuda:9'. Did you mean 'cuda'?",
    ("{fake: {clock: virtual}}", "fakes"): "backend: unknown backend 'fakes'. Did you mean 'fake'?",
    ("clock: v", "clok: v"): "backend.fake: unknown option 'clok'. Did you mean 'clock'?",
    ("virtual", "virtuel"): "backend.fake.clock: unknown value 'virtuel'. Did you mean 'virtual'?",
    ("clock: virtual", "ttft_ms: fast"): "backend.fake.ttft_ms: expected a number, got 'fast'",
    ("clock: virtual", "call: true"): "backend.fake.call: expected a whole number, got True",
    ("clock: virtual", "ttft_ms: .nan"): "backend.fake.ttft_ms: nan is not a finite number",
    ("llama-7b@tiny", "llama-7x"): "model: 'llama-7x' is not a catalogue entry, folder or hub id. Did you mean",
    ("llama-7b@tiny", "x" * 300): "model: 'xxx",
    ("llama-7b@tiny", '"a\\0b"'): "model: 'a\\x00b' is not a catalogue entry, folder or hub id.",
    ("device: cpu", "prompts: nofile.txt"): "prompts: 'nofile.txt': No such file or directory. Give a text file",
    # settings
    ("{sessions: 1", "{sesions: 1"): "protocol: unknown key 'sesions'. Did you mean 'sessions'?",
    ("{sessions: 1", "{sessions: many"): "protocol.sessions: expected a whole number, got text",
    ("{sessions: 1", "{sessions: 0"): "protocol: sessions must be at least 1, got 0",
    ("{sessions: 1", "{sessions: 2"): "protocol: max_sessions (1) is below sessions (2)",
    ("max_sessions: 1", "max_sessions: 1000000000000"): "protocol: max_sessions must be at most 1000",
    ("{sessions: 1", "{seed: -1, sessions: 1"): "protocol: seed cannot be negative, got -1",
    ("{sessions: 1", "{min_time_s: .inf, sessions: 1"): "protocol.min_time_s: inf is not a finite number",
    ("{sessions: 1", "{deadlines: {load_s: 0}, sessions: 1"): "protocol.deadlines: load_s must be above 0",
    # at the wrong level
    ("why: y", "why: y\nsessions: 5"): "sweep.yaml: unknown key 'sessions'. It belongs under 'protocol'.",
    ("why: y", "why: y\nbatch_size: 5"): "sweep.yaml: unknown key 'batch_size'. It belongs under 'axes'.",
    ("device: cpu", "warmup: 5"): "sweep.yaml: axes: unknown key 'warmup'. It belongs under 'protocol'.",
    ("device: cpu", "why: z"): "sweep.yaml: axes: unknown key 'why'. It belongs at the top level.",
    ("{sessions: 1", "{load_s: 1, sessions: 1"): "unknown key 'load_s'. It belongs under 'protocol.deadlines'.",
    # paths
    ("llama-7b@tiny", "./mymodel"): "model: './mymodel': the folder does not exist.",
    ("llama-7b@tiny", "/etc/hostname"): "model: '/etc/hostname': is a file; give the folder of a checkpoint.",
    # nothing to run
    ("size: 1", "size: []"): "x: nothing to run; the axis batch_size is empty",
    ("llama-7b@tiny", "[]"): "x: nothing to run; the axis model is empty",
    ("{fake: {clock: virtual}}", "{}"): "x: nothing to run; the axis backend is empty",
}  # fmt: skip


@pytest.mark.parametrize(("change", "line"), MISTAKES.items())
def test_a_mistake_is_one_line(
    change: tuple[str, str], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert change[0] in SWEEP
    (tmp_path / "sweep.yaml").write_text(SWEEP.replace(*change, 1))

    code = cli.run(["sweep", str(tmp_path / "sweep.yaml"), "-o", str(tmp_path / "run")])

    shown = capsys.readouterr()
    assert (code, shown.out) == (2, "")
    assert line in shown.err
    assert shown.err.startswith("llmbench: ")
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "nothing to run: give a sweep file, or --model NAME"),
        (["nowhere.yaml"], "nowhere.yaml: cannot be read: No such file or directory."),
        (["--model", "llama-7b@tiny", "--batch-size", "1,x"], "--batch-size: 'x' is not a whole"),
        (["--model", "llama-7b@tiny", "--dtype", "f32"], "dtype: unknown value 'f32'"),
        (["--model", "llama-7b@tiny", "--seed", "-1"], "--seed: seed cannot be negative, got -1."),
        (
            ["--model", "llama-7b@tiny", "--sessions", "0"],
            "--sessions: sessions must be at least 1, got 0.",
        ),
        (["--modle", "llama-7b@tiny"], "No such option: --modle. Did you mean '--model'?"),
        (["--model", "llama-7b@tiny", "--resume"], "--resume: there is no run of 'adhoc'"),
    ],
)
def test_a_mistaken_flag_is_one_line(
    arguments: list[str],
    line: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)

    code = cli.run(["sweep", *arguments])

    shown = capsys.readouterr()
    assert (code, shown.out) == (2, "")
    assert line in shown.err
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--within", "0"), "--within: 0 is not a share between 0 and 1; give one such as 0.015."),
        (("--sessions", "1"), "--sessions: 1 shows no spread between sessions; give at least 2."),
    ],
)
def test_a_calibration_that_can_show_nothing_is_refused_before_it_measures(
    arguments: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.run(["calibrate", "nowhere.yaml", *arguments])

    assert (code, capsys.readouterr().err) == (2, f"llmbench: {line}\n")


def test_an_ambiguous_end_of_an_id_is_no_cell(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.run(["cell", "configs/sweeps/quickstart.yaml", ""])

    assert code == 2
    assert "8 cells end in ''; give more of the id" in capsys.readouterr().err


def test_what_no_engine_can_run_is_a_record_and_the_rest_is_measured(bench: Bench) -> None:
    bench.write(axes={"batch_size": 1, "input_len": [8, 100_000]})

    done = bench.sweep()

    assert done.code == 3
    assert [record.status for record in done.records].count(Status.OK) == 2
    told = next(record for record in done.records if record.status is Status.UNSUPPORTED)
    assert (told.phase, told.session) == ("plan", 1)
    assert "input_len=100000" in (told.reason or "")
    assert "exceed the model's 2048 positions" in (told.reason or "")


def test_a_value_given_twice_is_measured_once(bench: Bench) -> None:
    bench.write(axes={"batch_size": [1, 1, 1]}, ttft_ms=[5, 5.0])

    done = bench.sweep()

    assert done.code == 0
    assert len(done.records) == 2
    assert "batch_size: 1 given more than once; measured once." in done.out


def test_one_new_token_has_no_time_between_tokens(bench: Bench) -> None:
    bench.write(axes={"batch_size": 1, "output_len": 1})

    done = bench.sweep()

    assert done.code == 0
    (sample, *_) = done.records[0].outcome.samples
    assert [len(row) for row in sample.token_ns] == [1]
