"""Anonymised lines of a run, without the user, the machine's name and the folders.

Everything that a table needs stays: the chip, the driver, the versions, the settings and every number. Errors keep
only their kind, because engines write host names and paths into the rest.
"""

from __future__ import annotations

import getpass
import platform
import re
import socket
from functools import cache
from typing import Any, TypeVar

import msgspec

from llmbench.results.record import Status
from llmbench.redact import redact

L = TypeVar("L", bound=msgspec.Struct)

COMMAND = "llmbench, anonymous"
"""Replaces the command line, and marks a run as anonymous."""

FOLDERS = re.compile(
    r"(?<![\w:/<.@-])(?:(?:~|\.{1,2})(?=/))?/*+(?:[^\s/'\"<>|:;,()\[\]{}=*]+/){2,}+[^\s/'\"<>|:;,()\[\]{}=*]*+"
    r"|(?<![\w/<.-])(?:~\w*|\.{0,2})/[^\s/'\"<>|:;,()\[\]{}=*]++/?+|\b[A-Za-z]:\\[^\s'\"<>|:;,]++"
)
"""Absolute paths, and those of two folders or more; `org/model` is a hub id."""

ADDRESSES = re.compile(
    r"\w{2,12}:/{1,3}[^\s'\"<>]++|\b\d{1,3}(?:\.\d{1,3}){3}\b|\b[\w.+-]{1,64}@(?:[\w-]{1,63}\.)+\w{2,}"
    r"|\b(?:host|node|server|address)=['\"]?[\w.:-]+"
)

FOREIGN = (Status.CRASH, Status.CUDA_ERROR, Status.LOAD_FAILED, Status.UNSUPPORTED)
"""Statuses whose reason is an engine's text instead of ours."""
OUR_WORDS = re.compile(r"(?:killed by|no_result|the worker exited|protocol|nursery)[\w ().:,]*")
KIND = re.compile(r"[A-Za-z_][\w.]*(?=:)")

LEFT_OUT = "left out"
CUT_OFF = "the sweep was stopped, or the box was gone"


def line(whole: L) -> L:
    """Return the anonymised line."""
    return msgspec.convert(facts(msgspec.to_builtins(whole)), type(whole))


def facts(members: dict[str, Any]) -> dict[str, Any]:
    """Return the anonymised members of a line, including those of a later format."""
    change = CHANGES.get(members["kind"])
    changed: dict[str, Any] = _texts(change(members) if change else members)
    return changed


def last_part(name: str) -> str:
    """Return the last part of a path; a catalogue name or hub id is unchanged."""
    if re.fullmatch(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?(?:@\w+)?", name):
        return name
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1] or LEFT_OUT


def text(original: str) -> str:
    """Return text without secrets, folders, addresses, and the names of this machine and its user."""
    plain = FOLDERS.sub("<path>", ADDRESSES.sub("<address>", redact(original)))
    return names().sub("<name>", plain)


@cache
def names() -> re.Pattern[str]:
    """Return a pattern of the names of this machine, its user and its kernel."""
    known = {socket.gethostname(), socket.gethostname().partition(".")[0], platform.node()}
    known |= {platform.release(), platform.version(), _user()} - {"root"}
    known = {name for name in known if len(name) >= 3 and name != "localhost"}
    alternatives = "|".join(map(re.escape, sorted(known, key=len, reverse=True)))
    return re.compile(rf"(?<![A-Za-z0-9])(?:{alternatives or '(?!)'})(?![A-Za-z0-9])")


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user id without a name, as in containers
        return ""


def _texts(value: Any, key: str = "") -> Any:
    if isinstance(value, str):
        return value if key in EXACT else text(value)
    if isinstance(value, dict):
        return {name: _texts(inner, str(name)) for name, inner in value.items()}
    return [_texts(inner, key) for inner in value] if isinstance(value, list) else value


EXACT = (
    "kind",
    "id",
    "cell",
    "cells",
    "run",
    "status",
    "at",
    "ended",
    "cpu",
    "environment_digest",
    "digest",
    "sha256",
)
"""Texts of ours without anything about the machine, to which other lines refer."""


def _plan(plan: dict[str, Any]) -> dict[str, Any]:
    """Remove the command, the location of weights, the kernel's build and the device's id."""
    environment = {**plan["environment"]}
    environment |= {"system": str(environment.get("system", "")).partition(" ")[0]}
    if "machine" in environment:
        environment["machine"] = _machine(environment["machine"])
    folders = {model["name"]: model["source"] == "folder" for model in plan["models"]}

    def told(name: str) -> str:
        return name.rstrip("/").rsplit("/", 1)[-1] if folders.get(name) else last_part(name)

    models = [
        {
            **model,
            "name": told(model["name"]),
            "location": None if model["source"] == "folder" else model["location"],
            "config": {k: v for k, v in model["config"].items() if k != "_name_or_path"},
        }
        for model in plan["models"]
    ]
    cells = [{**_point(cell), "model": told(cell["model"])} for cell in plan["cells"]]
    return {
        **plan, "command": COMMAND, "models": models, "cells": cells, "environment": environment,
        "machine": _machine(plan["machine"]),
    }  # fmt: skip


def _machine(machine: dict[str, Any]) -> dict[str, Any]:
    gpus = [{**gpu, "uuid_hash": None} for gpu in machine.get("gpus") or ()]
    return {**machine, "gpus": gpus}


def _point(cell: dict[str, Any]) -> dict[str, Any]:
    return {**cell, "model": last_part(cell["model"]), "prompts": last_part(cell["prompts"])}


def _begin(begin: dict[str, Any]) -> dict[str, Any]:
    return {**begin, "pid": 0, "pid_start_s": 0.0, "boot": "", "token": ""}


def _result(result: dict[str, Any]) -> dict[str, Any]:
    """Remove tracebacks, process ids, leftover processes, and an engine's error texts."""
    outcome = {key: value for key, value in result["outcome"].items() if key != "trace"}
    kept = ("start", "end", "exit", "peak_rss_bytes")
    worker = {key: result["worker"][key] for key in kept if key in result["worker"]}
    warnings = [
        {**finding, "detail": "processes were left behind and killed"}
        if finding["code"] == "strays"
        else finding
        for finding in result["warnings"]
    ]
    anonymised = {**result, "cell": _point(result["cell"]), "worker": worker, "warnings": warnings}
    if result["status"] in FOREIGN:
        if outcome.get("error"):
            outcome["error"] = _kind(outcome["error"])
        anonymised["reason"] = result["reason"] and _kind(result["reason"])
    if result["worker"].get("box") and result["status"] == Status.INTERRUPTED:
        outcome["error"] = anonymised["reason"] = CUT_OFF  # the words have the box's name
    return {**anonymised, "outcome": outcome}


def _kind(error: str) -> str:
    match = OUR_WORDS.match(error) or KIND.match(error)
    return match[0] if match else LEFT_OUT


def _import(imported: dict[str, Any]) -> dict[str, Any]:
    return {**imported, "command": COMMAND}


def _place(place: dict[str, Any]) -> dict[str, Any]:
    """Remove the box's name, the ids of its units, the kernel's build and the devices' ids."""
    environment = {**place["environment"]}
    environment |= {"system": str(environment.get("system", "")).partition(" ")[0]}
    if "machine" in environment:
        environment["machine"] = _machine(environment["machine"])
    return {
        **place, "name": "box", "units": [], "machine": _machine(place["machine"]),
        "environment": environment,
    }  # fmt: skip


def _move(move: dict[str, Any]) -> dict[str, Any]:
    return {**move, "unit": ""}


CHANGES = {
    "sweep": _plan,
    "begin": _begin,
    "end": _result,
    "import": _import,
    "place": _place,
    "move": _move,
}
"""The anonymising function of each kind of line; other kinds have only numbers and texts."""
