"""What a dry run says: which cells fit, how long all of it takes, what it costs; and what a run keeps of that."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from llmbench import backends
from llmbench.report.views import dry_run
from llmbench.results import store
from llmbench.results.prediction import Prediction
from llmbench.results.record import Plan
from sweeps import Bench, Done, asked

H200 = ("--dry-run", "--machine", "h200")


def on_gpu(bench: Bench, **axes: Any) -> None:
    lengths = {"batch_size": [1, 64], "input_len": 4096, "output_len": 128}
    bench.write(
        axes={
            "model": "llama-7b",
            "backend": "transformers",
            "device": "auto",
            "dtype": "bfloat16",
            **lengths,
            **axes,
        }
    )


def told(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.err
    facts: dict[str, Any] = json.loads(done.out)
    return facts


def test_a_named_chip_is_planned_for_without_one(bench: Bench) -> None:
    on_gpu(bench, input_len=1920)

    done = bench.sweep(*H200)

    assert done.code == 0, done.err
    _, same, _, head, _, one, many, *_ = done.out.splitlines()
    assert same == "backend transformers, device cuda, dtype bfloat16, weights dummy"
    assert head.split()[:7] == ["model", "batch", "in", "out", "memory", "need", "TTFT"]
    assert one.split()[:5] == ["llama-7b", "1", "1920", "128", "fits"]
    assert "Cost: about" in done.out
    assert "at 1 x $7.91 a GPU-hour, AWS" in done.out
    assert "2026-03" in done.out
    assert not bench.run.exists()
    assert many.split()[:5] == ["llama-7b", "64", "1920", "128", "fits"]


def test_the_sum_is_that_of_the_cells(bench: Bench) -> None:
    on_gpu(bench, input_len=[128, 1024])

    facts = told(bench.sweep(*H200, "--format", "json", "--usd-per-gpu-hour", "3.6"))

    sessions = [cell["prediction"]["session_s"] for cell in facts["cells"]]
    assert facts["sweep_s"] == pytest.approx(facts["sessions"] * sum(sessions))
    assert facts["price"]["usd_per_hour"] == 3.6
    assert facts["cells_without_time"] == 0


def test_the_most_sessions_are_told_beside_the_fewest(bench: Bench) -> None:
    on_gpu(bench, input_len=[128, 1024])
    asked = (*H200, "--usd-per-gpu-hour", "3.6")
    bench.file.write_text(bench.file.read_text().replace('"max_sessions": 2', '"max_sessions": 8'))

    facts = told(bench.sweep(*asked, "--format", "json"))
    text = bench.sweep(*asked).out

    least_s = facts["sweep_s"]
    assert (facts["sessions"], facts["max_sessions"]) == (2, 8)

    def by_count(least: str, most: str) -> str:
        return f"{least} with 2 sessions of each cell, up to {most} with 8"

    times = by_count(dry_run.seconds(least_s), dry_run.seconds(4 * least_s))
    usd = by_count(f"${least_s / 1000:,.2f}", f"${least_s / 250:,.2f}")
    assert f"Time: about {times}.\n" in text
    assert f"Cost: about {usd}, at 1 x $3.6 a GPU-hour, as given.\n" in text
    assert "2 to 8 sessions (as many as intervals of ±1.5% take) each." in text
    assert "first 2 sessions  cell" in text


def test_a_fixed_number_of_sessions_is_told_from_a_range(bench: Bench) -> None:
    on_gpu(bench, input_len=128)

    text = bench.sweep(*H200).out

    assert "all 2 sessions  cell" in text
    assert "1 group, 2 sessions each." in text
    assert "sessions of each cell" not in text


def test_the_basis_of_an_estimate_is_named_with_its_rates(bench: Bench) -> None:
    on_gpu(bench, input_len=128)

    assert (
        "Estimates: datasheet of H200 141GB SXM (4.8 TB/s, 989 TFLOP/s in bfloat16), and 965 us a layer assumed "
        "for the host; no earlier records."
    ) in bench.sweep(*H200).out


def test_an_engine_that_is_not_installed_is_said_before_anything_runs(bench: Bench) -> None:
    if backends.missing("vllm") is None:
        pytest.skip("vLLM is installed here")
    bench.write(axes={"backend": "vllm", "batch_size": 1})

    line = "the vllm backend needs the package vllm: pip install 'llmbench[vllm]'."
    assert f"Not installed here: {line}" in bench.sweep("--dry-run").out
    refused = bench.sweep()
    assert (refused.code, refused.err) == (2, f"llmbench: {line}\n")
    assert not bench.run.exists()
    assert bench.sweep("--dry-run", "--machine", "h200").out.count("Not installed") == 0


def test_a_cell_that_does_not_fit_takes_no_time(bench: Bench) -> None:
    on_gpu(bench, model="bloom-176b", batch_size=1, input_len=128)

    done = bench.sweep(*H200)

    assert "does not fit" in done.out
    assert "Too large: 1 cell; the smallest needs 330 GiB (weights 328 GiB" in done.out
    assert "Time: unknown." in done.out


def test_a_chip_without_the_dtype_is_named_as_the_reason_for_no_times(bench: Bench) -> None:
    on_gpu(bench, input_len=128, batch_size=1)

    done = bench.sweep("--dry-run", "--machine", "t4", "--format", "markdown")

    assert "no times, because T4 has no bfloat16; ask for dtype auto or float16." in done.out


def test_a_cell_that_no_engine_runs_keeps_its_reason(bench: Bench) -> None:
    on_gpu(bench, input_len=[128, 4096])

    done = bench.sweep(*H200)

    assert done.out.count("unsupported: ") == 1
    assert "4224 tokens exceed the model's 2048 positions. And 1 more cell like it." in done.out


def test_ten_thousand_cells_are_folded_within_seconds(bench: Bench) -> None:
    on_gpu(bench, model=["llama-7b", "mpt-7b"], batch_size="1-50", input_len="16-1600+16")
    began = time.process_time()  # other processes do not count

    done = asked("sweep", bench.file, *H200)

    assert done.code == 0, done.err
    assert time.process_time() - began < 10
    assert len(done.out.splitlines()) < 20
    assert "10,000 cells" in done.out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--dry-run", "--machine", "h20"),
            "machine: 'h20' is not a known chip. Did you mean 'h200'?",
        ),
        (("--machine", "h200"), "--machine: only works together with --dry-run."),
        (("--dry-run", "--machine", "h200*x"), "--machine: 'h200*x': after * belongs the number"),
        (("--dry-run", "--machine", "h200*0"), "--machine: 'h200*0': after * belongs the number"),
        ((*H200, "--price", "nobody"), "--price: 'nobody' is not a provider"),
        ((*H200, "--price", "sn40l=4"), "--price: no price of 'sn40l=4'; h200 has"),
        (("--price", "aws"), "--price: only works together with --dry-run"),
        (("--usd-per-gpu-hour", "2"), "--usd-per-gpu-hour: only works together with --dry-run"),
        (("--format", "html"), "--format html: only works together with --dry-run"),
        (
            (*H200, "--usd-per-gpu-hour", "-1"),
            "--usd-per-gpu-hour: a price must be above 0 dollars.",
        ),
        ((*H200, "--probe"), "--probe: measures this machine, and --machine h200 is another."),
    ],
)
def test_mistakes_are_one_line(bench: Bench, flags: tuple[str, ...], message: str) -> None:
    on_gpu(bench, input_len=128)

    done = bench.sweep(*flags)

    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


def predictions(run: Path) -> dict[str, Prediction]:
    plan = store.read(run).plan
    assert plan is not None
    return plan.predictions


def test_a_run_keeps_its_predictions_from_before_the_first_cell(bench: Bench) -> None:
    bench.write()

    bench.sweep()

    lines = [*store.read(bench.run)]
    assert isinstance(lines[0], Plan)
    assert set(lines[0].predictions) == {cell.id for cell in lines[0].cells}


def test_a_resumed_run_keeps_what_was_said_and_adds_what_is_new(bench: Bench) -> None:
    bench.write(axes={"batch_size": [1]})
    bench.sweep()
    before = predictions(bench.run)
    bench.write(axes={"batch_size": [1, 2]})

    bench.sweep("--add")

    after = predictions(bench.run)
    assert len(before) == 1
    assert len(after) == 2
    assert before.items() <= after.items()


# -- vLLM, and several GPUs ------------------------------------------------------------------------------


def on_vllm(bench: Bench, machine: str, *flags: str, **changes: Any) -> tuple[dict[str, Any], str]:
    """Return what a dry run of vLLM says for programs and for people."""
    options = changes.pop("options", {})
    on_gpu(bench, backend={"vllm": options}, **{"input_len": 128, "batch_size": 1, **changes})
    asked = ("--dry-run", "--machine", machine, *flags)
    return told(bench.sweep(*asked, "--format", "json")), bench.sweep(*asked).out


GIB = 2**30


def test_vllm_has_room_in_its_share_for_weights_and_then_for_keys_and_values(bench: Bench) -> None:
    # 7B in bfloat16: 12.55 GiB; 256 tokens x 0.5 MiB = 128 MiB a sequence; T4: 15 GiB, of which 0.9 are taken
    fits, text = on_vllm(bench, "h200", batch_size=[1, 64])

    assert [cell["fits"] for cell in fits["cells"]] == ["fits", "fits"]
    need = [cell["need_bytes"] for cell in fits["cells"]]
    assert need[1] - need[0] == 63 * 128 * 2**20
    assert need[0] == pytest.approx(12.55 * GIB + GIB / 2 + GIB / 8, rel=0.01)
    assert "vllm takes at least these times" in text


@pytest.mark.parametrize(
    ("machine", "options", "fits", "why"),
    [
        (
            "t4",
            {},
            "does not fit",
            "a sequence of 2,048 tokens, the most that the model takes, needs 1 GiB",
        ),
        (
            "l4",
            {"gpu_memory_utilization": 0.5},
            "does not fit",
            "weights of 12.6 GiB leave no room in 0.5 of 22.5 GiB",
        ),
        ("l4", {}, "queues", "at most 57 of 64 sequences fit at once"),
        ("l4", {"max_num_seqs": 32}, "queues", "at most 32 of 64 sequences fit at once"),
        ("l4", {"kv_cache_memory_bytes": GIB}, "queues", "at most 8 of 64 sequences fit at once"),
        ("l4", {"kv_cache_memory_bytes": GIB // 2}, "does not fit", "set the option max_model_len"),
        (
            "l4",
            {"kv_cache_memory_bytes": GIB // 2, "max_model_len": 512},
            "queues",
            "at most 4 of 64 sequences",
        ),
        ("l4", {"kv_cache_memory_bytes": 4 * GIB, "kv_cache_dtype": "fp8"}, "fits", ""),
        (
            "l4",
            {"tensor_parallel_size": 2},
            "does not fit",
            "it needs 2 GPUs, and the machine has 1",
        ),
        ("t4*2", {"tensor_parallel_size": 2}, "fits", ""),
        ("h200", {"quantization": "fp8"}, "unknown", ""),
    ],
)
def test_what_vllm_has_no_room_for_queues_or_does_not_fit(
    bench: Bench, machine: str, options: dict[str, Any], fits: str, why: str
) -> None:
    facts, text = on_vllm(bench, machine, batch_size=64, dtype="float16", options=options)

    (cell,) = facts["cells"]
    assert (cell["fits"], (cell["sweep_s"] is None) or fits == "fits") == (fits, True)
    assert why in text
    assert ("llmbench records such a cell as unsupported" in text) is (fits == "queues")


def test_the_times_of_vllm_are_the_least_and_marked_so(bench: Bench) -> None:
    facts, text = on_vllm(bench, "h200")

    (cell,) = facts["cells"]
    # a step reads 12.3 GiB of weights at 4.8 TB/s
    assert cell["tpot_s"] == pytest.approx(0.0028, rel=0.05)
    assert cell["times"] == "least"
    assert cell["prediction"].get("tpot_s") is None
    assert "≥ 2." in text
    assert "Time: at least " in text
    assert "Cost: at least $" in text


def test_tensor_parallel_divides_the_weights_and_the_least_times(bench: Bench) -> None:
    one, _ = on_vllm(bench, "h100-sxm*8")
    eight, text = on_vllm(bench, "h100-sxm*8", options={"tensor_parallel_size": 8})

    (alone,), (shared,) = one["cells"], eight["cells"]
    assert shared["tpot_s"] == pytest.approx(alone["tpot_s"] / 8)
    assert shared["need_bytes"] - GIB // 2 == pytest.approx((alone["need_bytes"] - GIB // 2) / 8)
    assert text.splitlines()[0] == "example: what would run on 8 x H100 80GB SXM5"
    assert "of the model's own work at 8 x " in text


@pytest.mark.parametrize(
    ("flags", "usd", "said"),
    [
        ((), 8 * 2.99, "8 x $2.99 a GPU-hour, Lambda, 2026-05"),
        (("--price", "runpod"), 8 * 3.49, "8 x $3.49 a GPU-hour, RunPod, 2026-05"),
        (("--usd-per-gpu-hour", "2"), 16.0, "8 x $2 a GPU-hour, as given"),
        (("--usd-per-hour", "20"), 20.0, "$20 an hour, as given"),
        (("--price", "lambda@2026"), 8 * 2.99, "8 x $2.99 a GPU-hour, Lambda, 2026-05"),
        (("--price", "h100-sxm=3"), 24.0, "8 x $3 a GPU-hour of h100-sxm, as given"),
    ],
)
def test_several_gpus_are_paid_for_together(
    bench: Bench, flags: tuple[str, ...], usd: float, said: str
) -> None:
    facts, text = on_vllm(bench, "h100-sxm*8", *flags)

    assert facts["gpus"] == 8
    assert facts["price"] == {"usd_per_hour": pytest.approx(usd), "source": said}
    assert f", at {said}." in text


def planned_here(*flags: str) -> dict[str, Any]:
    """Return the plan of a cell of Pythia-160m as JSON."""
    done = asked("sweep", "pythia-160m", *flags, "--dry-run", "--format", "json")
    (cell,) = json.loads(done.out)["cells"]
    return dict(cell)


def test_vllm_on_a_cpu_needs_its_whole_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ("--backend", "vllm", "--device", "cpu", "--dtype", "bfloat16")
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    usual = planned_here(*flags)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    small = planned_here(*flags)
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "99999")
    large = planned_here(*flags)

    assert usual["need_bytes"] - small["need_bytes"] == GIB
    assert usual["need_bytes"] == pytest.approx(2 * GIB + 2 * 162e6, rel=0.05)
    assert large["fits"] == "does not fit"


@pytest.mark.parametrize(
    ("machine", "fits"), [("h100-sxm", "does not fit"), ("h100-sxm*2", "fits")]
)
def test_a_model_over_several_gpus_has_the_memory_of_all(machine: str, fits: str) -> None:
    done = asked("sweep", "llama-2-70b", "--option", "device_map=auto", "--dry-run", "--machine", machine,
                 "--dtype", "bfloat16", "--format", "json")  # fmt: skip

    (cell,) = json.loads(done.out)["cells"]
    assert cell["fits"] == fits


def test_a_served_cell_takes_at_least_its_window_and_never_queues_too_many() -> None:
    cell = planned_here(
        "--backend", "vllm_server", "--load", "5/s", "--option", "window_s=40", "--sessions", "3",
        "--device", "cpu", "--dtype", "bfloat16",
    )  # fmt: skip

    assert (cell["fits"], cell["sweep_s"], cell["times"]) == ("fits", 120.0, "least")
