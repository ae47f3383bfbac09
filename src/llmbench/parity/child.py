"""The child process of a parity check: reads tasks as JSON on standard input, writes answers as JSON to a file.

An engine generates tokens with their log-probabilities, and the reference scores them. Each has a process of its
own, because importing one engine can change how another computes.

    python -m llmbench.parity.child ANSWERS.json < tasks.json
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal

import msgspec

from llmbench import backends
from llmbench.errors import LoadFailed, Unsupported
from llmbench.measure.engine import Speaker
from llmbench.results.record import Job  # noqa: TC001 - msgspec reads the annotations


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A task: `cut` prompts from a text, `save` a checkpoint, let an engine `speak`, or have its tokens `scored`."""

    kind: Literal["cut", "save", "speak", "score"]
    job: Job
    folder: str = ""
    disturbed: bool = False
    sequences: list[list[int]] = []
    input_len: int = 0
    output_len: int = 0


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The result of a task. `own` are log-probabilities of the generated tokens, `largest` of the likeliest."""

    tokens: list[list[int]] = []
    own: list[list[float]] = []
    largest: list[list[float]] = []
    unable: str | None = None


def main() -> None:
    """Do the tasks in order; the reply of a failed task has the reason."""
    tasks = msgspec.json.decode(sys.stdin.buffer.read(), type=list[Task])
    answers = [_answered(task) for task in tasks]
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(answers))
    sys.stdout.flush()
    os._exit(0)  # skips the teardown, in which engines may hang


def _answered(task: Task) -> Reply:
    try:
        return ACTS[task.kind](task)
    except (LoadFailed, Unsupported) as error:
        return Reply(unable=str(error))


def _cut(task: Task) -> Reply:
    cell = task.job.cells[0]
    prompts = backends.reference().cut(task.job, cell.batch_size, task.input_len)
    return Reply(tokens=prompts)


def _save(task: Task) -> Reply:
    backends.reference().save(task.job, task.folder, disturbed=task.disturbed)
    return Reply()


def _speak(task: Task) -> Reply:
    engine = backends.load(task.job)
    if not isinstance(engine, Speaker):
        return Reply(
            unable=f"the {task.job.cells[0].backend} backend does not report log-probabilities."
        )
    engine.prepare(task.job.cells[0])
    tokens, own = engine.speak(task.sequences, task.output_len)
    if close := getattr(engine, "close", None):
        close()
    return Reply(tokens=tokens, own=own)


def _score(task: Task) -> Reply:
    own, largest = backends.reference().scored(task.job, task.sequences, task.input_len)
    return Reply(own=own, largest=largest)


ACTS = {"cut": _cut, "save": _save, "speak": _speak, "score": _score}


if __name__ == "__main__":
    main()
