"""The parity check of a sweep, in which every engine reads the same saved checkpoint and prompts.

The reference then scores each engine's tokens one by one; a tie therefore does not change all later tokens. Each
check also proves that it can fail: it must detect a checkpoint with one disturbed matrix.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from llmbench import interpreter
from llmbench.machine import nvidia
from llmbench.measure.prompts import SYNTHETIC
from llmbench.models import checkpoint
from llmbench.parity.child import Reply, Task
from llmbench.parity.distance import Distance, distance, faults, wrong_tokens
from llmbench.redact import redact
from llmbench.results.record import Job, Parity
from llmbench.run import plan
from llmbench.spec.grid import QUANTIZATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from llmbench.models.resolve import Model
    from llmbench.spec.sweep import Cell, Protocol

PROMPTS, INPUT_LEN, OUTPUT_LEN = 4, 40, 24
"""96 tokens per engine: enough for a root mean square, and about a second on a small model."""
FIRST_ID = 4
"""The lowest id in prompts; lower ids are often special."""
PATIENCE_S = 1800.0
UNQUANTISED = "there is no unquantised model to compare it with"
TRUE, DISTURBED = "true", "disturbed"
"""The folders of the two checkpoints."""


class Subject(NamedTuple):
    """One engine under one set of conditions, and the cells that its verdict covers."""

    job: Job
    cells: tuple[Cell, ...]


def check(
    cells: Sequence[Cell],
    models: Mapping[str, Model],
    protocol: Protocol,
    tell: Callable[[str], None],
) -> Iterator[Parity]:
    """Yield a verdict for each engine, model, dtype and options of a sweep; `tell` receives progress messages."""
    for subjects in _by_checkpoint(cells, models, protocol):
        with tempfile.TemporaryDirectory(prefix="llmbench-parity-") as folder:
            yield from _Checkpoint(subjects[0], Path(folder), tell).verdicts(subjects)


def _by_checkpoint(
    planned: Sequence[Cell], models: Mapping[str, Model], protocol: Protocol
) -> list[list[Subject]]:
    """Return the engines of a sweep, grouped by weights and dtype."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in planned:
        groups.setdefault(cell.group(), []).append(cell)
    shared: dict[tuple[str, ...], list[Subject]] = {}
    for cells in groups.values():
        first = cells[0]
        words = None if first.prompts == SYNTHETIC else plan.text(first.prompts)
        job = Job(
            cells=[_small(first)],
            model=models[first.model],
            protocol=protocol,
            session=0,
            prompts_text=words,
        )
        key = (
            *(first.model, first.model_digest, first.device, first.dtype, first.load_format),
            first.prompts,
        )
        shared.setdefault(key, []).append(Subject(job, tuple(cells)))
    return list(shared.values())


def _small(cell: Cell) -> Cell:
    return msgspec.structs.replace(
        cell, batch_size=PROMPTS, input_len=INPUT_LEN, output_len=OUTPUT_LEN
    )


class _Checkpoint:
    """One set of weights in one dtype, saved unchanged and disturbed, and the common prompts."""

    def __init__(self, first: Subject, folder: Path, tell: Callable[[str], None]) -> None:
        self.job, self.folder, self.tell = first.job, folder, tell
        self.prompts: list[list[int]] = []

    def verdicts(self, subjects: Sequence[Subject]) -> list[Parity]:
        """Return the verdict for each engine that reads these weights."""
        why = f"its files are quantised, and {UNQUANTISED}" if self._stored_quantised() else ""
        drawn = Reply(unable=why) if why else self._drawn()
        if drawn.unable:
            return [_line(subject, "untested", drawn.unable) for subject in subjects]
        self.prompts = drawn.tokens
        noise, control = self._noise_and_control()
        heard = [self._words(subject) for subject in subjects]
        able = [words for words in (noise, control, *heard) if not words.unable]
        truth = self._truth(able)
        distances = [words.unable or next(truth) for words in (noise, control, *heard)]
        return [
            _verdict(subject, distance, *distances[:2])
            for subject, distance in zip(subjects, distances[2:], strict=True)
        ]

    def _stored_quantised(self) -> bool:
        return checkpoint.quantisation(self.job.model.config) is not None

    def _drawn(self) -> Reply:
        """Return the prompts: of the sweep's text, or drawn at random."""
        if self.job.prompts_text is None:
            return Reply(tokens=_prompts(self.job))
        self.tell(f"{self.job.cells[0].model}: cutting prompts from a text")
        return self._ask([Task(kind="cut", job=self.job, input_len=INPUT_LEN)])[0]

    def _noise_and_control(self) -> tuple[Reply, Reply]:
        """Save both checkpoints, and run transformers in the cell's dtype on each, for noise and control."""
        cell = self.job.cells[0]
        self.tell(
            f"{cell.model} {cell.dtype}: measuring its noise, and the effect of a disturbed matrix"
        )
        plain = msgspec.structs.replace(cell, backend="transformers", options={})
        own = msgspec.structs.replace(self.job, cells=[plain])
        tasks = [
            *(
                Task(
                    kind="save",
                    job=self.job,
                    folder=str(self.folder / name),
                    disturbed=name == DISTURBED,
                )
                for name in (TRUE, DISTURBED)
            ),
            *(self._speaking(own, name) for name in (TRUE, DISTURBED)),
        ]
        saved, disturbed, noise, control = self._ask(tasks)
        unable = saved.unable or disturbed.unable
        return (Reply(unable=unable), Reply(unable=unable)) if unable else (noise, control)

    def _words(self, subject: Subject) -> Reply:
        cell = subject.job.cells[0]
        self.tell(f"{cell.model} {cell.dtype}: {cell.backend}")
        return self._ask([self._speaking(subject.job, TRUE)])[0]

    def _truth(self, spoken: Sequence[Reply]) -> Iterator[Distance | str]:
        """Yield the distance of each reply from the reference's scores of the same tokens."""
        whole = [
            [*prompt, *new]
            for words in spoken
            for prompt, new in zip(self.prompts, words.tokens, strict=True)
        ]
        job = self._reading(self.job, TRUE)
        (heard,) = self._ask([Task(kind="score", job=job, sequences=whole, input_len=INPUT_LEN)])
        for number, words in enumerate(spoken):
            rows = slice(number * PROMPTS, (number + 1) * PROMPTS)
            yield heard.unable or distance(words.own, heard.own[rows], heard.largest[rows])

    def _speaking(self, job: Job, name: str) -> Task:
        read = self._reading(job, name)
        return Task(kind="speak", job=read, sequences=self.prompts, output_len=OUTPUT_LEN)

    def _reading(self, job: Job, name: str) -> Job:
        """Return the job with its weights read from one of our folders."""
        cell = msgspec.structs.replace(job.cells[0], load_format="safetensors")
        location = str(self.folder / name)
        model = msgspec.structs.replace(job.model, source="folder", location=location)
        return msgspec.structs.replace(job, cells=[cell], model=model)

    def _ask(self, tasks: Sequence[Task]) -> list[Reply]:
        return ask(tasks, self.folder / "answers.json")


def _verdict(
    subject: Subject, distance: Distance | str, noise: Distance | str, control: Distance | str
) -> Parity:
    for unable in (noise, control, distance):
        if isinstance(unable, str):
            return _line(subject, "untested", unable)
    assert isinstance(distance, Distance)
    assert isinstance(noise, Distance)
    assert isinstance(control, Distance)
    if not faults(control, noise):
        return _line(
            subject, "untested", "a disturbed matrix was not detected; the check proves nothing"
        )
    scheme = subject.cells[0].options.get(QUANTIZATION)
    if scheme and math.isfinite(distance.error):
        why = _how_far(str(scheme), distance, noise, control)
        return _line(subject, "quantised", why, distance, noise)
    wrong = faults(distance, noise)
    return _line(subject, "failed" if wrong else "passed", "; ".join(wrong), distance, noise)


def _how_far(scheme: str, distance: Distance, noise: Distance, control: Distance) -> str:
    """Return what a scheme changes: log-probabilities, and tokens beyond a near tie; one bad matrix is a measure."""
    wrong = wrong_tokens(distance, noise)
    return (
        f"{scheme} is off by {distance.error:.2g} nats, the unquantised model by {noise.error:.2g}, and with one "
        f"disturbed matrix by {control.error:.2g}; {wrong} of {distance.positions} tokens differ"
    )


def ask(tasks: Sequence[Task], answers: Path) -> list[Reply]:
    """Run tasks in a new process, and kill every process that it leaves behind."""
    answers.unlink(missing_ok=True)
    child = subprocess.Popen(
        interpreter.command("llmbench.parity.child", answers),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=nvidia.ORDER | os.environ | interpreter.SAFE,
        start_new_session=True,
    )
    try:
        output, _ = child.communicate(msgspec.json.encode(tasks), timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        return [Reply(unable=f"no answer within {PATIENCE_S:.0f} s") for _ in tasks]
    finally:
        _end(child)
    if child.returncode or not answers.exists():
        lines = output.decode(errors="replace").strip().splitlines() or ["it printed nothing"]
        died = Reply(unable=f"it ended with code {child.returncode}: {redact(lines[-1])[:300]}")
        return [died for _ in tasks]
    return msgspec.json.decode(answers.read_bytes(), type=list[Reply])


def _end(child: subprocess.Popen[bytes]) -> None:
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    child.wait()


def _prompts(job: Job) -> list[list[int]]:
    """Return prompts of ids that every engine has, without the first ones, which are often special."""
    rng = np.random.default_rng(job.protocol.seed)
    drawn: list[list[int]] = rng.integers(
        FIRST_ID, job.model.vocab_size or 1000, (PROMPTS, INPUT_LEN)
    ).tolist()
    return drawn


def _line(
    subject: Subject,
    verdict: str,
    why: str,
    distance: Distance | None = None,
    noise: Distance | None = None,
) -> Parity:
    cell = subject.job.cells[0]
    figures = {} if distance is None or noise is None else {
        "positions": distance.positions, "same": distance.same, "wrong": wrong_tokens(distance, noise),
        "error_nats": distance.error if math.isfinite(distance.error) else None, "noise_nats": noise.error,
    }  # fmt: skip
    return msgspec.convert(
        {
            "cells": [own.id for own in subject.cells],
            "verdict": verdict,
            "why": redact(why),
            "model": cell.model,
            "backend": cell.backend,
            "options": cell.options,
            "device": cell.device,
            "dtype": cell.dtype,
            **figures,
        },
        Parity,
    )
