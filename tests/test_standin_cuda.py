"""The stand-in of a CUDA device has the rules of a real one; each is shown by some lines that run on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from standin_cuda import BEGIN, guard, settings
from standin_cuda.settings import Gpu

if TYPE_CHECKING:
    from pathlib import Path


class Rule(NamedTuple):
    """Lines that leave an answer in `told`, or fail, and the answer or the beginning of the error expected."""

    lines: str
    expected: object


MIXED = (
    "RuntimeError: Expected all tensors to be on the same device, but found at least two devices, "
)
RULES = {
    "a tensor is where it was made": Rule(
        """
        x = torch.ones(2, 3, device="cuda")
        made = torch.tensor([1, 2], device=torch.device(1)), torch.nn.Linear(2, 2).to("cuda:1").weight
        moved = x.to(1), torch.ones(2).to("cuda"), torch.ones(2).cuda(1), x.cpu()
        told = [str(t.device) for t in (x, x + 1, *made, *moved)]
        """,
        ["cuda:0", "cuda:0", "cuda:1", "cuda:1", "cuda:1", "cuda:0", "cuda:1", "cpu"],
    ),
    "a module moves as a whole, and what is tied stays tied": Rule(
        """
        module = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False))
        module[1].weight = module[0].weight
        module.to("cuda:1")
        told = [str(module[0].weight.detach().view(-1).device), module[0].weight is module[1].weight]
        """,
        ["cuda:1", True],
    ),
    "its values are those of the CPU": Rule(
        """
        torch.manual_seed(0)
        a, b = torch.randn(4, 8), torch.randn(8, 4)
        told = torch.equal((a.cuda() @ b.cuda()).softmax(-1).cpu(), (a @ b).softmax(-1))
        """,
        True,
    ),
    "host and device do not mix": Rule(
        "torch.ones(2, device='cuda') + torch.ones(2)", f"{MIXED}cpu and cuda:0!"
    ),
    "two devices do not mix": Rule(
        "torch.ones(2, device='cuda:0') + torch.ones(2, device='cuda:1')",
        f"{MIXED}cuda:0 and cuda:1!",
    ),
    "a number of the host mixes with a device": Rule(
        "told = (torch.ones(2, device='cuda') + torch.tensor(1.0)).tolist()", [2.0, 2.0]
    ),
    "numpy is refused": Rule(
        "torch.ones(2, device='cuda').numpy()",
        "TypeError: can't convert cuda:0 device type tensor to numpy.",
    ),
    "a copy is a copy": Rule(
        """
        host = torch.ones(2)
        there = host.cuda()
        back = there.cpu()
        there.add_(1)
        host.copy_(there)
        told = [host.tolist(), there.tolist(), back.tolist()]
        """,
        [[2.0, 2.0], [2.0, 2.0], [1.0, 1.0]],
    ),
    "in place is in place": Rule(
        "x = torch.zeros(4, device='cuda'); x[1:3].fill_(7); told = x.tolist()",
        [0.0, 7.0, 7.0, 0.0],
    ),
    "the host goes on while the device works": Rule(
        """
        x = torch.ones(8, device="cuda")
        torch.cuda.synchronize()
        began_ns = clock.now_ns()
        for _ in range(50):
            x.add_(1)
        queued_ns = clock.now_ns() - began_ns
        torch.cuda.synchronize()
        told = [queued_ns < 50e6, clock.now_ns() - began_ns >= 100e6]  # 50 operators of 2 ms
        """,
        [True, True],
    ),
    "it waits where a value is needed": Rule(
        """
        x = torch.ones(8, device="cuda")
        told = []
        for read in (lambda: x.argmax(), lambda: x[2:], lambda: x[x > 0], lambda: x.tolist(),
                     lambda: x[0].item(), lambda: bool(x[0] > 0), lambda: x.cpu(), lambda: torch.ones(2).cuda()):
            waits.clear()
            read()
            told.append(len(waits))
        """,
        [0, 0, 1, 1, 1, 1, 1, 1],
    ),
    "events tell the device's time": Rule(
        """
        x = torch.ones(8, device="cuda")
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        x.add_(1)  # so that the device is busy when the host goes on
        start.record()
        for _ in range(10):
            x.add_(1)
        end.record()
        end.synchronize()
        told = round(start.elapsed_time(end))  # 10 operators of 2 ms
        """,
        20,
    ),
    "an event is not read before its time": Rule(
        """
        x = torch.ones(8, device="cuda")
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        x.add_(1)
        end.record()
        start.elapsed_time(end)
        """,
        "AcceleratorError: CUDA error: device not ready",
    ),
    "the allocator counts blocks of 512 bytes": Rule(
        """
        before = torch.cuda.memory_allocated()
        x = torch.empty(1000, dtype=torch.uint8, device="cuda")
        view = x[1:]
        held = torch.cuda.memory_allocated() - before
        del x
        still = torch.cuda.memory_allocated() - before
        del view
        told = [held, still, torch.cuda.memory_allocated() - before]
        """,
        [1024, 1024, 0],
    ),
    "peaks begin anew": Rule(
        """
        x = torch.empty(2**26, dtype=torch.uint8, device="cuda")
        del x
        high = torch.cuda.max_memory_allocated(), torch.cuda.memory_reserved()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        low = torch.cuda.max_memory_allocated(), torch.cuda.memory_reserved()
        told = [a - b >= 2**26 - 2**21 for a, b in zip(high, low)]
        """,
        [True, True],
    ),
    "memory runs out, and the process goes on": Rule(
        """
        try:
            torch.empty(600 * 2**20, dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError as error:
            told = [str(error)[:52], torch.ones(1, device="cuda").item()]
        """,
        ["CUDA out of memory. Tried to allocate 0.59 GiB. GPU ", 1.0],
    ),
    "the driver lists the process": Rule(
        """
        torch.ones(1, device="cuda")
        (mine,) = pynvml.nvmlDeviceGetComputeRunningProcesses(pynvml.nvmlDeviceGetHandleByIndex(0))
        used = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used
        told = [mine.pid == os.getpid(), 500 <= mine.usedGpuMemory / 2**20 < 800, used - mine.usedGpuMemory]
        """,
        [True, True, 2**29],
    ),
    "a fork after the first call is refused": Rule(
        """
        torch.ones(1, device="cuda")
        pid = os.fork()
        if pid == 0:
            try:
                torch.ones(1, device="cuda")
            except RuntimeError as error:
                os._exit("forked subprocess" in str(error))
            os._exit(2)
        told = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        """,
        1,
    ),
    "the probe times every device": Rule(
        """
        from llmbench.backends import places
        found = places.cuda()
        x = torch.ones(8, device="cuda:1")
        took_s = found[1].watch.seconds(lambda: x.add_(1), 10)  # 10 operators of 2 ms
        told = [[place.name for place in found], 0.02 <= took_s < 0.03, found[1].free_bytes < 2**30]
        """,
        [["NVIDIA H200", "NVIDIA H200"], True, True],
    ),
}
PROGRAM = """
import json, os, sys, textwrap
import pynvml, torch
from standin_cuda import clock, device
waits = []
device.note = lambda kind, **_: waits.append(kind) if kind == "wait" else None
answers = {}
for name, lines in json.load(sys.stdin).items():
    names = {"torch": torch, "clock": clock, "os": os, "pynvml": pynvml, "waits": waits}
    try:
        exec(textwrap.dedent(lines), names)
        answers[name] = names.get("told")
    except Exception as error:
        answers[name] = f"{type(error).__name__}: {error}"
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what each rule's lines told, all run by one Python on two small GPUs with slow operators."""
    environment = {
        "PYTHONPATH": str(BEGIN),
        "STANDIN_STATE": str(tmp_path_factory.mktemp("gpu")),
        "STANDIN_GPUS": "2",
        "STANDIN_MEMORY_BYTES": str(settings.GIB),
        "STANDIN_OP_US": "2000",
    }
    rules = json.dumps({name: rule.lines for name, rule in RULES.items()})
    done = subprocess.run(
        (sys.executable, "-c", PROGRAM), input=rules, env=os.environ | environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.mark.usefixtures("_cuda")
@pytest.mark.parametrize("name", RULES)
def test_the_device_keeps_its_rules(name: str, answers: dict[str, Any]) -> None:
    expected, told = RULES[name].expected, answers[name]

    if isinstance(expected, str):
        assert told.startswith(expected)
    else:
        assert told == expected


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, [Gpu(0), Gpu(2)]),
        ("", []),
        ("1,0", [Gpu(2), Gpu(0)]),
        ("0,7,1", [Gpu(0)]),
        ("GPU-00000002", [Gpu(2)]),
        ("GPU-00000001", []),
    ],
)
def test_cuda_shows_the_gpus_that_are_allowed_and_asked_for(
    visible: str | None, expected: list[Gpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "GPUS", 3)
    monkeypatch.setattr(settings, "DENIED", [1])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert settings.shown() == expected


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        (None, Gpu(0, 0)),
        ("1", Gpu(1, 0)),
        (Gpu(1, 1).uuid, Gpu(1, 1)),
        (f"{Gpu(0, 1).uuid},{Gpu(1, 1).uuid}", Gpu(0, 1)),
    ],
)
def test_cuda_shows_a_process_one_slice(
    visible: str | None, expected: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "GPUS", 2)
    monkeypatch.setattr(settings, "SLICES", 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    assert settings.shown() == [expected]


def test_a_machine_without_a_compiler_is_told_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(guard, "BUILT", tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)

    with pytest.raises(RuntimeError, match=r"needs a C\+\+ compiler"):
        guard.library()
