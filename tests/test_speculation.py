"""Speculative decoding: what may be asked for, what is counted, and the proof that the text stays the model's own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from jobs import at, family, job, prompts
from lazily import Lazy
from llmbench import backends
from llmbench.errors import NothingToRun, SpecError
from llmbench.measure import checks
from llmbench.measure import prompts as measure_prompts
from llmbench.measure.checks import Ceilings
from llmbench.measure.loop import Loop, Measurement
from llmbench.measure.telemetry import NoCounters
from llmbench.models.resolve import resolve
from llmbench.results import sessions
from llmbench.results.record import Status
from llmbench.run.plan import plan
from llmbench.spec import speculation
from llmbench.spec.sweep import Axes, Protocol, Sweep

if TYPE_CHECKING:
    from pathlib import Path

    from llmbench.results.record import Job

reference: Any = Lazy("llmbench.backends.reference_model")

QUICK = Protocol(iterations=2, min_time_s=0, warmup=1, warmup_budget_s=0)
MODEL = family("llama")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model whose layers all matter, and which serves as its own draft model."""
    folder = tmp_path_factory.mktemp("model")
    reference.save(job(MODEL), str(folder), disturbed=False)
    return folder


def wanted(saved: Path, **shape: Any) -> Job:
    asked = {
        "batch_size": 1,
        "loop": "generate",
        "speculative": "ngram",
        "speculative_tokens": 3,
        **shape,
    }
    return at(job(MODEL, load_format="safetensors", protocol=QUICK, **asked), saved)


def measured(asked: Job, engine: Any) -> Any:
    cell = asked.cells[0]
    taken = Measurement(cell)
    Loop(
        engine,
        QUICK,
        measure_prompts.synthetic(cell, engine, 0, 0),
        taken,
        NoCounters(),
        lambda *_: None,
    ).run()
    outcome = taken.outcome(engine=dict(engine.facts), load_s=1.0, cell_s=1.0)
    return checks.check_outcome(cell, outcome, Ceilings()), outcome


# -- what may be asked for --------------------------------------------------------------------------


GENERATES = {"transformers": {"loop": "generate"}}


def planned(**axes: Any) -> Any:
    point = {"device": "cpu", "dtype": "float32", "batch_size": 1, "input_len": 8, "output_len": 4}
    return plan(Sweep(name="x", axes=Axes(model="llama-7b@tiny", **{**point, **axes})))


@pytest.mark.parametrize("backend", ["transformers", "vllm"])
def test_random_prompts_are_refused_and_the_line_says_why(backend: str) -> None:
    with pytest.raises(
        NothingToRun, match="says nothing with random prompts and weights; give a real model and a"
    ):
        planned(backend={backend: {**GENERATES.get(backend, {}), "speculative": "ngram"}})


def test_who_asks_for_it_gets_it_and_the_cell_says_so() -> None:
    found = planned(
        backend={
            "transformers": {"loop": "generate", "speculative": "ngram", "speculative_anyway": True}
        }
    )

    assert not found.refused
    assert found.cells[0].options["speculative_anyway"] is True


def test_a_draft_has_a_token_at_least() -> None:
    options = {
        "loop": "generate",
        "speculative": "ngram",
        "speculative_anyway": True,
        "speculative_tokens": 0,
    }
    with pytest.raises(NothingToRun, match="speculative_tokens: 0 is no length of a draft"):
        planned(backend={"transformers": options})


def test_a_draft_needs_a_model() -> None:
    with pytest.raises(
        NothingToRun,
        match="speculative=draft needs the folder of a smaller model: draft_model=FOLDER",
    ):
        planned(backend={"transformers": {"speculative": "draft"}})


def test_no_rate_of_one_token_a_reading_is_held_against_it() -> None:
    options = {"loop": "generate", "speculative": "ngram", "speculative_anyway": True}
    cell = planned(backend={"transformers": options}).cells[0]

    assert checks._most_a_pass(cell) == 6
    assert checks._most_a_pass(planned().cells[0]) == 1


@pytest.mark.parametrize(
    ("backend", "changed", "line"),
    [
        ("transformers", {"loop": "forward"}, "it needs loop=generate"),
        ("transformers", {"cache": "static"}, "it needs cache=dynamic"),
        ("transformers", {"device_map": "auto"}, "it needs device_map=none"),
        (
            "vllm",
            {"multiprocessing": True},
            "in the engine's own process; it needs multiprocessing=false",
        ),
    ],
)
def test_the_plan_refuses_what_an_engine_does_not_do(
    backend: str, changed: dict[str, Any], line: str
) -> None:
    asked = {"speculative": "ngram", "speculative_anyway": True, **GENERATES.get(backend, {})}

    assert not planned(backend={backend: asked}).refused
    with pytest.raises(NothingToRun, match=line):
        planned(backend={backend: {**asked, **changed}})


def test_transformers_speculates_for_one_sequence() -> None:
    asked = {"speculative": "ngram", "speculative_anyway": True, "loop": "generate"}

    (why,) = planned(backend={"transformers": asked}, batch_size=[1, 2]).refused.values()

    assert "one sequence alone; use batch_size 1, or the vllm backend" in why


def drafted(folder: Path, **more: Any) -> Any:
    options = {"speculative": "draft", "speculative_anyway": True, "draft_model": str(folder)}
    return planned(backend={"vllm": options}, **more)


def test_the_plan_finds_that_a_draft_model_is_not_there(saved: Path) -> None:
    with pytest.raises(SpecError, match=r"draft_model: .*/nowhere' is not the folder of a check"):
        drafted(saved / "nowhere")


def draft_folder(folder: Path, weights: bytes = b"x", **changed: Any) -> Path:
    model = resolve("llama-7b@tiny")
    folder.mkdir(parents=True, exist_ok=True)
    config = {**model.config, "model_type": "llama", "dtype": "float32", **changed}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(weights)
    return folder


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {"vocab_size": 77},
            "the draft model has 77 words and the model 2,048; both need the same",
        ),
        ({"max_position_embeddings": 11}, "12 tokens exceed the draft model's 11 positions"),
    ],
)
def test_a_draft_model_goes_with_the_model(
    changed: dict[str, Any], line: str, tmp_path: Path
) -> None:
    assert not drafted(draft_folder(tmp_path)).refused

    with pytest.raises(NothingToRun, match=line):
        drafted(draft_folder(tmp_path, **changed))


def test_other_weights_of_a_draft_model_are_another_cell(tmp_path: Path) -> None:
    (one,) = drafted(draft_folder(tmp_path)).cells
    (again,) = drafted(draft_folder(tmp_path)).cells
    (other,) = drafted(draft_folder(tmp_path, b"others")).cells

    assert one.id == again.id
    assert one.options == other.options
    assert one.id != other.id
    assert one.attached_digest != other.attached_digest


# -- what is counted --------------------------------------------------------------------------------


def test_a_model_accepts_every_draft_of_its_own(saved: Path) -> None:
    asked = wanted(saved, speculative="draft", draft_model=str(saved), output_len=16)
    plain = at(job(MODEL, load_format="safetensors", batch_size=1, output_len=16), saved)

    engine: Any = backends.load(asked)
    engine.prepare(asked.cells[0])
    tokens = engine.generate(prompts(asked), 16)

    assert tokens == backends.load(plain).generate(prompts(plain), 16)
    # 4 passes of 3 accepted tokens and the model's own
    assert engine.counters() == {
        speculation.PASSES: 4, speculation.NEW: 16, speculation.DRAFTED: 12, speculation.ACCEPTED: 12,
    }  # fmt: skip
    assert engine.memory(prompts(asked), 16).draft_bytes == engine.facts["weights_bytes"]


def test_the_tokens_of_a_pass_come_together(saved: Path) -> None:
    asked = wanted(saved, speculative="draft", draft_model=str(saved))
    engine: Any = backends.load(asked)
    engine.prepare(asked.cells[0])
    engine.generate(prompts(asked), 8)

    (row,) = engine.token_ns()
    assert len(row) == 8
    assert row == sorted(row)
    assert row[3] - row[0] < (row[4] - row[3]) / 4


def test_a_cell_is_measured_and_proved_greedy(saved: Path) -> None:
    asked = wanted(saved)

    (status, problems, _), outcome = measured(asked, backends.load(asked))

    assert (status, problems) == (Status.OK, [])
    assert outcome.counters[speculation.NOT_GREEDY] == 0
    assert outcome.counters[speculation.NEW] == 2 * 8


def test_a_draft_that_is_taken_unchecked_is_invalid(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = wanted(saved)
    engine: Any = backends.load(asked)
    honest = engine.generate
    monkeypatch.setattr(
        engine, "generate", lambda *given: [[(row[0] + 1) % 96, *row[1:]] for row in honest(*given)]
    )

    (status, problems, _), _ = measured(asked, engine)

    assert status is Status.INVALID
    (found,) = [problem.detail for problem in problems if problem.code == "not_greedy"]
    assert "of 8 tokens are not what the model chooses without speculation" in found


def test_what_nobody_checked_is_invalid(saved: Path) -> None:
    cell = wanted(saved).cells[0]
    (finding,) = checks._not_greedy(cell, Measurement(cell).outcome(), Ceilings())

    assert finding.detail == "nobody checked what the model chooses without speculation"


def test_the_shares_are_ratios_of_totals() -> None:
    counted = {
        speculation.PASSES: 4,
        speculation.NEW: 10,
        speculation.DRAFTED: 12,
        speculation.ACCEPTED: 6,
    }

    assert sessions._speculation(counted) == (2.5, 0.5)
    assert sessions._speculation({**counted, speculation.DRAFTED: 0}) == (2.5, None)
    assert sessions._speculation({"prefix_cache_hits": 0}) == (None, None)
