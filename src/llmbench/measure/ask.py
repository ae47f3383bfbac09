"""What models say of themselves: asked once in a child process, and kept in the user's state folder.

A model is asked whose family has no row in `models/shape`. The answer is kept by a digest of the configuration and of
the versions that built it, therefore a second look takes no time. Nothing here imports an engine.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import subprocess
from typing import TYPE_CHECKING

import msgspec

from llmbench import interpreter
from llmbench.errors import RunError
from llmbench.machine import state
from llmbench.models import checkpoint, resolve
from llmbench.models.counts import ModelAnswer
from llmbench.redact import redact, shown
from llmbench.spec.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmbench.models.resolve import Model

PROGRAM = tuple(interpreter.command("llmbench.backends.meta_model"))
DEADLINE_S = 60.0
"""For all models that are asked at once; one of 70 billion parameters takes 7 s on two cores."""
ASKED = 2
"""The version of the questions; an answer to others is not used."""


class KeptAnswer(state.OfMachine, frozen=True, kw_only=True):
    """The content of a file: the digest of what was asked, and the answer, or why there is none."""

    machine: str = msgspec.field(name="asked")
    answer: ModelAnswer | None = None
    why: str = ""


SHELF = state.Shelf("models", "answer of a model", KeptAnswer, "it is asked again")


def ask(
    models: Sequence[Model], program: Sequence[str] = PROGRAM, deadline_s: float = DEADLINE_S
) -> dict[str, ModelAnswer | str]:
    """Return what each model says of itself by name, or in one line why that is not known. Never raises."""
    keys = {model.name: _key(model) for model in models}
    found = {name: SHELF.find(key)[0] for name, key in keys.items()}
    missing = [model for model in models if found[model.name] is None]
    said = _from_child(missing, program, deadline_s) if missing else {}
    for name, answer in said.items():
        if not isinstance(answer, RunError):
            found[name] = _kept(keys[name], answer)
    return {
        name: str(said[name]) if kept is None else kept.answer or kept.why
        for name, kept in found.items()
    }


def with_counts(models: Mapping[str, Model]) -> tuple[dict[str, Model], list[str]]:
    """Return the models with the counts of those whose family has no row, and why some are still not known.

    Quantised weights are not those that the rest of a configuration describes; nothing is asked of them.
    """
    plain = {name: configured(model) for name, model in models.items()}
    unknown = [
        model
        for model in plain.values()
        if model.config
        and not checkpoint.quantisation(model.config)
        and resolve.counts_of(model) is None
    ]
    answers, known, notices = ask(unknown), {}, []
    for name, model in models.items():
        answer = answers.get(name)
        counts = (
            answer.counts if isinstance(answer, ModelAnswer) else resolve.counts_of(plain[name])
        )
        known[name] = msgspec.structs.replace(
            model, counts=None if model.config and not answer else counts
        )
        if answer is not None and counts is None:
            why = answer.why if isinstance(answer, ModelAnswer) else answer
            notices.append(f"Nothing is predicted of {name}: {why.rstrip('.')}.")
    return known, notices


def configured(model: Model) -> Model:
    """Return a model with its configuration: a hub id's is the one in the local cache, if there is one."""
    if model.source != "hub" or model.config:
        return model
    config = checkpoint.hub_config(str(model.location))
    family = config.get("model_type")
    return msgspec.structs.replace(
        model, config=config, model_type=family if isinstance(family, str) else None
    )


def kept(models: Sequence[Model]) -> dict[str, ModelAnswer]:
    """Return what models said when they were asked before, by name."""
    files = {model.name: SHELF.find(_key(model))[0] for model in models}
    return {name: file.answer for name, file in files.items() if file and file.answer}


def _kept(key: str, answer: ModelAnswer | str) -> KeptAnswer:
    """Return an answer as it is kept; a state folder that cannot be written only means to ask again."""
    file = (
        KeptAnswer(machine=key, why=answer)
        if isinstance(answer, str)
        else KeptAnswer(machine=key, answer=answer)
    )
    with contextlib.suppress(RunError):
        SHELF.keep(file)
    return file


def _key(model: Model) -> str:
    versions = [_version(package) for package in ("transformers", "torch")]
    return digest_of([ASKED, model.model_type, model.config, versions])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _from_child(
    models: Sequence[Model], program: Sequence[str], deadline_s: float
) -> dict[str, ModelAnswer | str | RunError]:
    """Return the answers of a child process; a RunError for a model that it never answered for."""
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            return {
                each.name: RunError(f"the package {package} is not installed") for each in models
            }
    try:
        done = subprocess.run(
            program,
            input=msgspec.json.encode(list(models)),
            capture_output=True,
            timeout=deadline_s,
            check=False,
            env={
                **os.environ,
                **interpreter.SAFE,
                "CUDA_VISIBLE_DEVICES": "",
                "HF_HUB_OFFLINE": "1",
            },
        )
        said, why = done.stdout, _last_line(done.stderr) or f"exit {done.returncode}"
    except subprocess.TimeoutExpired as error:
        said, why = error.stdout or b"", f"no answer within {deadline_s:g} s"
    answers: dict[str, ModelAnswer | str | RunError] = {
        model.name: RunError(f"the process that builds it failed: {why}") for model in models
    }
    for model, line in zip(models, said.splitlines(), strict=False):
        try:
            answer = msgspec.json.decode(line, type=ModelAnswer | str)
        except (msgspec.DecodeError, ValueError):
            break
        answers[model.name] = shown(redact(answer)) if isinstance(answer, str) else answer
    return answers


def _last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return shown(redact(lines[-1])) if lines else ""
