"""The parity check over real processes: transformers passes, a disturbed engine fails, and who cannot speak says so."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from jobs import job
from llmbench import backends
from llmbench.errors import LoadFailed
from llmbench.parity import check, distance
from llmbench.results import store
from llmbench.results.record import Parity, Status
from llmbench.run import plan
from llmbench.spec import sweep as spec_sweep
from test_vllm_real import FAMILIES, SMALL

if TYPE_CHECKING:
    from pathlib import Path

    from sweeps import Bench


def planned(**axes: Any) -> plan.Planned:
    shape = {"device": "cpu", "batch_size": 1, "input_len": 8, "output_len": 4}
    sweep = {"name": "p", "why": "To compare.", "axes": {**shape, **axes}}
    return plan.plan(msgspec.convert(sweep, spec_sweep.Sweep))


def verdicts(**axes: Any) -> list[Parity]:
    found = planned(**axes)
    return list(check.check(found.cells, found.models, found.sweep.protocol, print))


@pytest.fixture
def disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the engine that is checked, and nothing else, read the disturbed checkpoint."""
    speaking = check._Checkpoint._words

    def from_the_wrong_weights(self: Any, subject: Any) -> Any:
        monkeypatch.setattr(check, "TRUE", check.DISTURBED)
        words = speaking(self, subject)
        monkeypatch.setattr(check, "TRUE", "true")
        return words

    monkeypatch.setattr(check._Checkpoint, "_words", from_the_wrong_weights)


@pytest.mark.slow
def test_transformers_is_at_parity_with_itself_and_covers_all_its_cells() -> None:
    told = verdicts(model="llama-7b@tiny", dtype=["float32", "bfloat16"], batch_size=[1, 2])

    assert [(each.verdict, each.why) for each in told] == [("passed", "")] * 2
    assert [len(each.cells) for each in told] == [2, 2]
    assert told[0].noise_nats is not None
    assert told[1].noise_nats is not None
    assert told[0].noise_nats < 1e-5 < told[1].noise_nats < 0.1
    assert told[1].error_nats == told[1].noise_nats


@pytest.mark.slow
@pytest.mark.usefixtures("disturbed")
def test_a_disturbed_engine_fails() -> None:
    (told,) = verdicts(model="llama-7b@tiny", dtype="bfloat16")

    assert told.verdict == "failed"
    assert "log-probabilities are off by" in told.why


@pytest.mark.slow
def test_a_check_that_notices_no_disturbance_proves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = check.ask

    def saving_twice_the_same(tasks: Any, answers: Path) -> Any:
        return asked([msgspec.structs.replace(task, disturbed=False) for task in tasks], answers)

    monkeypatch.setattr(check, "ask", saving_twice_the_same)

    (told,) = verdicts(model="llama-7b@tiny", dtype="float32")

    assert (told.verdict, told.why) == (
        "untested",
        "a disturbed matrix was not detected; the check proves nothing",
    )


def test_prompts_of_a_text_are_cut_from_all_of_it(trained_checkpoint: Path) -> None:
    wanted = job(trained_checkpoint, load_format="safetensors")
    text = " ".join(f"word{number}" for number in range(60))
    wanted = msgspec.structs.replace(wanted, prompts_text=text)

    first, *_, last = prompts = backends.reference().cut(wanted, 4, 16)

    assert [len(prompt) for prompt in prompts] == [16] * 4
    ids = backends.reference().cut(wanted, 1, 64)[0]
    assert first == ids[:16]
    assert last not in (first, ids[-16:])
    with pytest.raises(LoadFailed, match=r"the text has \d+ tokens; 400 prompts of 16 need 6400"):
        backends.reference().cut(wanted, 400, 16)


@pytest.mark.slow
def test_what_cannot_be_compared_says_why() -> None:
    told = verdicts(model="flan-t5-base@tiny", backend={"fake": {}}, dtype="float32")

    assert [each.verdict for each in told] == ["untested"]
    assert "models without an encoder" in told[0].why


def audit(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "llmbench", "audit", *map(str, arguments)),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_a_run_that_fails_its_audit_loses_its_numbers(bench: Bench) -> None:
    bench.write(
        axes={"backend": {"transformers": {}}, "batch_size": 1},
        protocol={"sessions": 1, "max_sessions": 1, "warmup_budget_s": 1},
    )
    assert bench.sweep().code == 0
    assert {record.status for record in bench.records()} == {Status.OK}

    passed = audit("--parity", bench.run)

    assert passed.returncode == 0, passed.stderr
    assert "passed" in passed.stdout
    assert {record.status for record in bench.records()} == {Status.OK}
    (line,) = [line for line in store.read(bench.run) if isinstance(line, Parity)]
    with store.open_run(bench.run) as run:
        run.append(msgspec.structs.replace(line, verdict="failed", why="as a test says"))
    assert {record.status for record in bench.records()} == {Status.INVALID}
    again = bench.sweep()
    assert again.code == 3, "a resumed sweep sees what failed"


def test_an_audit_of_what_is_no_run_is_one_line(tmp_path: Path) -> None:
    done = audit("--parity", tmp_path)

    assert done.returncode == 2
    assert done.stderr.startswith("llmbench: ")
    assert "is not a run" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not os.listdir(tmp_path)  # noqa: PTH208 - names are enough


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_on_vllm_is_at_parity_in_float32(family: str) -> None:
    name = f"{FAMILIES[family]}@tiny"

    (told,) = verdicts(model=name, backend={"vllm": SMALL}, dtype="float32")

    assert (told.verdict, told.why) == ("passed", "")
    assert told.wrong == 0
    assert told.error_nats is not None
    assert told.error_nats < distance.LEAST_ERROR


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("disturbed")
def test_vllm_with_a_disturbed_weight_fails() -> None:
    (told,) = verdicts(model="llama-7b@tiny", backend={"vllm": SMALL}, dtype="float32")

    assert told.verdict == "failed"
