"""Measured ceilings: a real probe of a small size, and every way in which one can fail, in one line."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from lazily import Lazy, torch
from llmbench import cli
from llmbench.errors import RunError
from llmbench.machine import chips, info
from llmbench.machine import peaks as ceilings
from llmbench.machine.peaks import Probe, Rate
from llmbench.measure import probe, telemetry
from test_peaks import CPU

if importlib.util.find_spec("torch") is None:
    pytest.skip("a probe takes torch", allow_module_level=True)

_probe: Any = Lazy("llmbench.backends.device_probe")
_places: Any = Lazy("llmbench.backends.places")

Output = pytest.CaptureFixture[str]
H200 = {"name": "NVIDIA H200", "memory_bytes": int(140.4 * 2**30)}
ON_H200 = Probe(
    device="cuda",
    name="NVIDIA H200",
    at="2026-01-01T00:00:00Z",
    torch="2.11.0",
    copy_bytes_s=4.3e12,
    read_bytes_s={"bfloat16": 4.0e12},
    flops_s={"float32": 5.0e13, "bfloat16": 7.7e14},
    step_s=4e-6,
)
HERE: dict[str, Any] = {"gpus": []}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return this host as a place that is measured in a second."""
    monkeypatch.setattr("llmbench.backends.device_probe.SHAPES", ((64, 128), (256, 256)))
    monkeypatch.setattr("llmbench.backends.device_probe.ROWS", (1, 16, 256))
    place = _places.cpu()[0]
    return place._replace(cache_bytes=2**18, least_bytes=2**22, point_s=0.005)


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no other test that runs meanwhile count as other work."""
    monkeypatch.setattr(telemetry.CpuWindow, "others", lambda _: 0.0)


def test_a_probe_beside_other_work_says_so_and_is_no_ceiling(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(telemetry.CpuWindow, "others", lambda _: 0.4)

    (found,), left_out = probe.measure("cuda", HERE, answering(ON_H200))

    assert (found.others_share, found.quiet) == (0.4, False)
    assert "Other processes used 40% of the CPUs meanwhile" in left_out[-1]


def program(text: str) -> tuple[str, ...]:
    return (sys.executable, "-c", text)


def answering(*probes: Probe) -> tuple[str, ...]:
    return program(f"print({msgspec.json.encode(list(probes)).decode()!r})")


def test_a_probe_measures_every_ceiling(small: Any) -> None:
    found = _probe.probe(small)

    dtypes = {"float32", "bfloat16", "float16"}
    assert (found.device, found.threads) == ("cpu", torch.get_num_threads())
    assert set(found.read_bytes_s) == set(found.flops_s) == dtypes
    assert {(r.dtype, r.rows, r.inner) for r in found.rates} >= {(d, 1, 64) for d in dtypes}
    ceilings.check(found)


class Metronome:
    """A watch on which every call takes a millisecond, and each third call two."""

    def __init__(self) -> None:
        self.times = 0

    def seconds(self, call: Any, times: int) -> float:
        call()
        self.times += 1
        return times * (0.002 if self.times % 3 == 0 else 0.001)


def test_figures_are_those_of_the_clock(small: Any) -> None:
    found = _probe.probe(small._replace(watch=Metronome(), point_s=1.0))

    # 4 MiB of float32 are copied in 16 pieces: as many bytes read as written, a millisecond each at best
    assert found.copy_bytes_s == pytest.approx(2 * 4_194_304 / 0.016)
    # as many as 16 matrices of 256 x 256 x 4 bytes fill them, and are passed over in as many pieces
    assert found.read_bytes_s["float32"] == pytest.approx(16 * 262_144 / 0.016)
    assert found.read_bytes_s["bfloat16"] == pytest.approx(16 * 131_072 / 0.016)
    [largest] = [r for r in found.rates if (r.dtype, r.rows, r.inner) == ("float32", 256, 256)]
    assert largest.flops_s == pytest.approx(2 * 256 * 256 * 256 / 0.001)
    assert found.flops_s["float32"] == pytest.approx(33_554_432 / 0.001)
    assert found.step_s == pytest.approx(0.001)


def test_a_point_that_would_take_too_long_is_left_out(small: Any) -> None:
    found = _probe.probe(small._replace(watch=Metronome(), point_s=0.015))

    # 16 times the rows would take 16 ms at the rate of the first point
    assert {rate.rows for rate in found.rates} == {1}


def test_what_a_cache_may_have_held_is_no_bandwidth(small: Any) -> None:
    found = _probe.probe(small._replace(free_bytes=2**24, cache_bytes=2**21))

    assert found.copy_bytes_s is None
    assert found.read_bytes_s == {}
    assert found.flops_s


def test_no_number_is_zero_in_any_type() -> None:
    numbers = _probe.random_numbers(3_000_000, torch.device("cpu"))

    for dtype in _probe.DTYPES:
        assert (numbers.to(dtype) != 0).all()


def test_every_product_has_other_weights() -> None:
    weights = torch.arange(64.0)

    matrices = _probe.as_matrices(weights, 4, 5)

    assert [tuple(matrix.shape) for matrix in matrices] == [(5, 4)] * 3
    assert len({float(number) for matrix in matrices for number in matrix.flatten()}) == 60


def test_an_answer_is_believed() -> None:
    assert probe.measure("cpu", HERE, answering(CPU)) == ([CPU], [])


def test_what_a_library_prints_is_no_answer() -> None:
    text = (
        "import os, sys; from llmbench.backends import device_probe; sys.argv[1:] = ['none']\n"
        "def none(): print('noise'); os.system('echo noise'); return []\n"
        "device_probe.PLACES['none'] = none;"
        "device_probe.main()"
    )

    with pytest.raises(RunError, match="this torch sees no none device"):
        probe.measure("none", HERE, program(text))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("import absent_module", "failed: ModuleNotFoundError: No module named 'absent_module'."),
        ("raise SystemExit(3)", "failed with exit 3."),
        ("import os; os.kill(os.getpid(), 9)", "was killed by SIGKILL (is there enough memory?)."),
        ("import os; os.kill(os.getpid(), 11)", "was killed by SIGSEGV."),
        ("pass", "is impossible: Input data was truncated."),
        ("print('[]')", "this torch sees no cpu device."),
        ("print('[{}]')", "missing required field `device`"),
        ("import sys; sys.exit('\\x1b[2J')", "failed: \\x1b[2J."),
    ],
)
def test_a_probe_that_fails_is_one_line(text: str, sentence: str) -> None:
    with pytest.raises(RunError) as caught:
        probe.measure("cpu", HERE, program(text))

    assert str(caught.value).startswith("--probe: ")
    assert sentence in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_probe_says_what_it_measures_before_it_does() -> None:
    told: list[str] = []
    said = "import sys; print('step: cpu: float32, 1 of 3.\\nnoise', file=sys.stderr); "

    probe.measure("cpu", HERE, program(said + answering(CPU)[2]), tell=told.append)

    assert told == ["cpu: float32, 1 of 3."]


def test_a_probe_that_hangs_is_ended() -> None:
    text = "import time; time.sleep(60)"

    with pytest.raises(RunError, match="took longer than 0 s and was stopped"):
        probe.measure("cpu", HERE, program(text), deadline_s=0.3)


def test_without_torch_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    with pytest.raises(RunError, match=r"needs the package torch: pip install 'llmbench\[transf"):
        probe.measure("cpu", HERE, program("print('[]')"))


def test_shares_of_a_datasheet_are_reckoned() -> None:
    shares = probe.shares(ON_H200, {"gpus": [H200]})

    assert shares["copy"] == pytest.approx(4.3 / 4.8)
    assert shares["read bfloat16"] == pytest.approx(4.0 / 4.8)
    assert shares["bfloat16"] == pytest.approx(770 / 989, rel=1e-3)
    assert shares["float32"] == pytest.approx(50 / 67, rel=1e-2)  # not of TF32's 494


@pytest.mark.parametrize("gpus", [[], [{**H200, "name": "NVIDIA H200 NVL"}], [{**H200, "mig": 1}]])
def test_there_are_no_shares_without_a_datasheet(gpus: list[dict[str, Any]]) -> None:
    assert probe.shares(ON_H200, {"gpus": gpus}) == {}


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        ({"flops_s": {"bfloat16": 3e15}}, "bfloat16 is 303% of what the datasheet allows"),
        ({"copy_bytes_s": 5.1e12}, "copy is 106% of what the datasheet allows"),
        ({"step_s": -1.0}, "step: -1.0 is not a possible rate or time"),
        ({"flops_s": {"float16": 0.0}}, "float16: 0.0 is not a possible rate or time"),
    ],
)
def test_what_cannot_be_is_refused(figures: dict[str, Any], sentence: str) -> None:
    wrong = msgspec.structs.replace(ON_H200, **figures)

    with pytest.raises(RunError, match=sentence):
        probe.measure("cuda", {"gpus": [H200]}, answering(wrong))


def test_one_dtype_that_cannot_be_costs_no_other() -> None:
    rates = [
        Rate(dtype=dtype, rows=1, inner=8, columns=8, flops_s=1e12)
        for dtype in ("float16", "bfloat16")
    ]
    wrong = msgspec.structs.replace(
        ON_H200, flops_s={"float16": 3e15, "bfloat16": 7e14}, rates=rates
    )

    (kept,), left_out = probe.measure("cuda", {"gpus": [H200]}, answering(wrong))

    assert kept.flops_s == {"bfloat16": 7e14}
    assert [rate.dtype for rate in kept.rates] == ["bfloat16"]
    assert left_out == ["--probe: left out, because float16 is 303% of what the datasheet allows."]


@pytest.mark.parametrize(
    ("name", "mib", "flops_s"),
    [
        (
            "NVIDIA GeForce RTX 5090",
            32607,
            224.3e12,
        ),  # measured: main-horse.github.io/posts/5090-mm-perf
        ("NVIDIA GeForce RTX 4090", 24564, 165.2e12 * 2820 / 2520),  # at the clock that it runs at
    ],
)
def test_a_desktop_card_may_beat_the_clock_that_it_is_sold_with(
    name: str, mib: int, flops_s: float
) -> None:
    gpu = {"name": name, "memory_bytes": mib * 2**20, "mig": 0}
    fast = msgspec.structs.replace(
        ON_H200, name=name, flops_s={"bfloat16": flops_s}, copy_bytes_s=1e11, read_bytes_s={}
    )

    assert probe.measure("cuda", {"gpus": [gpu]}, answering(fast)) == ([fast], [])


def run(*arguments: str) -> int:
    return cli.run(["machine", *arguments])


def test_the_command_measures_keeps_and_shows(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr(probe, "PROGRAM", answering(CPU))
    monkeypatch.setattr(info, "_gpus", list)

    assert run("--probe") == 0

    told = capsys.readouterr()
    assert "Measuring the ceilings of cpu" in told.err
    for line in (
        "measured 2026-01-01T00:00:00Z with torch 2.13.0, 2 threads",
        "copy, read and written 20 GB/s",
        "weights read, float32 15 GB/s",
        "matrix product, float32 100 GFLOP/s",
        "matrix products with weights from memory: float32 768x3072, by rows 1: 5 GFLOP/s",
        "one operation 3 us",
    ):
        assert f"measured ceilings: {line}" in " ".join(told.out.split())
    run()
    ceilings = told.out.partition("measured ceilings:")[2]
    assert capsys.readouterr().out.endswith(ceilings)
    run("--format", "json")
    [shown] = json.loads(capsys.readouterr().out)["measured_ceilings"]
    assert shown == {**msgspec.to_builtins(CPU), "others_share": 0.0, "share_of_datasheet": {}}


def test_a_known_chip_is_shown_with_the_share_of_its_datasheet(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr(info, "_gpus", lambda: [H200])
    ceilings.keep(info.machine(), [ON_H200])

    run()

    out = " ".join(capsys.readouterr().out.split())
    assert "copy, read and written 4.3 TB/s (90% of the datasheet's)" in out
    assert "matrix product, bfloat16 770 TFLOP/s (78% of the datasheet's)" in out


def test_without_a_probe_the_command_that_makes_one_is_named(capsys: Output) -> None:
    run()

    assert "llmbench machine --probe" in capsys.readouterr().out


def test_a_spoiled_probe_is_told_and_harms_nothing(capsys: Output) -> None:
    ceilings.keep(info.machine(), [CPU]).write_text("{")

    assert run() == 0
    assert "the saved probe was ignored" in capsys.readouterr().out


def test_a_chip_cannot_be_probed_by_name(capsys: Output) -> None:
    assert run("h200", "--probe") == 2
    assert capsys.readouterr().err == (
        "llmbench: --probe: measures this machine, not a 'h200'. Leave the chip's name out.\n"
    )


def test_a_busy_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "cpu_percent", lambda **_: 40.0)
    assert "Other processes use 40% of the CPUs" in (probe.busy() or "")

    monkeypatch.setattr(psutil, "cpu_percent", lambda **_: 3.0)
    assert probe.busy() is None


def test_a_sweep_measures_first_what_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    sweep = ["sweep", "--model", "llama-7b@tiny", "--device", "cpu", "--dry-run", "--probe"]
    monkeypatch.setattr(probe, "PROGRAM", answering(CPU))

    assert cli.run(sweep) == 0
    assert "Measuring the ceilings of cpu" in capsys.readouterr().out
    assert ceilings.probes_of(info.machine()) == [CPU]

    assert cli.run(sweep) == 0
    assert "Measuring" not in capsys.readouterr().out


def test_a_probe_that_fails_ends_the_sweep_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr(probe, "PROGRAM", program("raise SystemExit(3)"))
    run = tmp_path / "run"

    code = cli.run(["sweep", "--model", "llama-7b@tiny", "--probe", "-o", str(run)])

    assert code == 2
    assert "--probe: measuring cpu failed with exit 3." in capsys.readouterr().err
    assert not run.exists()


def test_a_gpu_in_use_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry.Gpu, "others", lambda *_: [4242])

    with pytest.raises(RunError, match="in use by process 4242"):
        probe.measure_and_keep({"gpus": [H200]}, ["cuda"], print)


def test_a_device_that_fails_does_not_cost_the_other_its_probe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(info, "_gpus", lambda: [H200])
    monkeypatch.setattr(telemetry.Gpu, "others", lambda *_: [])
    text = f"import sys; sys.exit('no driver') if sys.argv[1] == 'cuda' else {answering(CPU)[2]}"
    monkeypatch.setattr(probe, "PROGRAM", program(text))
    found = info.machine()

    with pytest.raises(RunError, match="measuring cuda failed: no driver"):
        probe.measure_and_keep(found, probe.kinds(found), print)

    assert ceilings.probes_of(found) == [CPU]


@pytest.mark.gpu
def test_a_gpu_reaches_what_its_datasheet_makes_likely() -> None:
    found = info.machine()

    reached, _ = probe.measure("cuda", found)

    for each in reached:
        shares = probe.shares(each, found)
        assert {name: share for name, share in shares.items() if not 0.4 < share < 1.05} == {}
        assert each.flops_s["bfloat16"] > 4 * each.flops_s["float32"]
        assert each.step_s
        assert 1e-6 < each.step_s < 1e-4


@pytest.mark.gpu
def test_a_gpu_probe_that_forgets_to_wait_is_refused() -> None:
    found = info.machine()
    assert [chips.match(gpu) for gpu in found["gpus"]] != [None], "the check needs a known chip"
    text = (
        "from llmbench.backends import places, device_probe; import sys; sys.argv[1:] = ['cuda'];"
        "places.CudaWatch.seconds = places.CpuWatch.seconds; device_probe.main()"
    )

    with pytest.raises(RunError, match="of what the datasheet allows"):
        probe.measure("cuda", found, program(text))
