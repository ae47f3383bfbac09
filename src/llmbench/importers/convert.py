"""Conversion of readings to a run with one record per session, which every command can read."""

from __future__ import annotations

import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from llmbench.errors import RunError, SpecError, Unconvertible
from llmbench.importers import read
from llmbench.results import store
from llmbench.results.record import Finding, Import, Outcome, Result, Source, Status
from llmbench.spec.digest import digest_of
from llmbench.spec.sweep import NOT_OURS, NOT_SAID, Point, slug

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from llmbench.importers import Reading, Said, ToolFile

TEXTS = ("model", "backend", "device", "dtype", "load_format", "prompts")
LENGTHS = ("batch_size", "input_len", "output_len")

RENAMED = ("model",)
"""Coordinates that the user may give differently from the file, which may name a model by its folder."""


def write(
    files: Iterable[Path],
    said: Said,
    name: str | None,
    folder: Path,
    command: str,
    at: str,
    machine: str = "",
) -> None:
    """Read files of other tools and write them as a run, all of them or none.

    Raises:
        Unconvertible: a file cannot be read or converted, or is given twice.
        SpecError: the user contradicts a file.
        RunError: the folder is not empty, or cannot be written.

    """
    if (folder / store.RECORDS).exists():
        raise RunError(f"{folder}: already contains a run; import into a new folder.")
    sources, results = _converted(files, said, name)
    title = " and ".join(dict.fromkeys(source.tool for source in sources))
    with store.open_run(folder) as run:
        run.append(
            Import(
                run=secrets.token_hex(16),
                name=title,
                command=command,
                at=at,
                sources=sources,
                machine=machine,
            )
        )
        for result in results:
            run.append(result)


def _converted(
    files: Iterable[Path], said: Said, name: str | None
) -> tuple[list[Source], list[Result]]:
    sources: list[Source] = []
    results: list[Result] = []
    sessions: Counter[str] = Counter()
    seen: dict[str, str] = {}
    for path in files:
        tool, document, readings = read(path, said, name)
        if document.sha256 in seen:
            raise Unconvertible(
                f"{document.name}: is the same as {seen[document.sha256]}; give each session's file once."
            )
        seen[document.sha256] = document.name
        sourced = [(_source(tool, document, reading), reading) for reading in readings]
        sources.append(sourced[0][0])
        results += _results(sourced, said, sessions)
    return sources, results


def _source(tool: str, document: ToolFile, reading: Reading) -> Source:
    return Source(
        tool=tool,
        file=document.name,
        sha256=document.sha256,
        version=reading.version,
        samples=reading.timed,
        refused=reading.refused,
    )


def _results(
    sourced: Sequence[tuple[Source, Reading]], said: Said, sessions: Counter[str]
) -> Iterator[Result]:
    """Yield a file's readings as sessions, numbered within each cell."""
    here: set[str] = set()
    for source, reading in sourced:
        point = _point(source, reading, said)
        if point.id in here:
            raise Unconvertible(
                f"{source.file}: contains the same test twice; a repetition in one process is not a second session."
            )
        here.add(point.id)
        sessions[point.id] += 1
        yield _result(point, source, reading, sessions[point.id])


def _point(source: Source, reading: Reading, said: Said) -> Point:
    """Return the coordinates of a reading; two files get the same id only if both are sessions of one cell."""
    facts: dict[str, Any] = {
        name: _coordinate(source.file, reading, said, name) for name in (*TEXTS, *LENGTHS)
    }
    for name in TEXTS:
        facts[name] = facts[name] or NOT_SAID
    facts["options"] = {"tool": source.tool, **reading.where.get("options", {})}
    facts["model_digest"] = NOT_SAID
    known = facts["model"] != NOT_SAID and all(facts[name] is not None for name in LENGTHS)
    again = reading.own_process and known
    digest = digest_of(
        {
            "cell": facts,
            "version": source.version,
            "file": None if again else source.sha256,  # of one server, or of an unknown model
        }
    )
    lengths = "-".join(f"{name[0]}{facts[name]}" for name in LENGTHS if facts[name] is not None)
    parts = (source.tool, facts["model"].rsplit("/", 1)[-1], lengths)
    readable = slug("-".join(part for part in parts if part and part != NOT_SAID))
    return msgspec.convert({"id": f"{readable}-{digest}", **facts}, Point)


def _coordinate(file: str, reading: Reading, said: Said, name: str) -> object:
    """Return a coordinate from the file or the user; raise SpecError if they contradict each other."""
    in_file, added = reading.where.get(name), said.get(name)
    if added is None:
        return in_file
    if in_file is not None and in_file != added and name not in RENAMED:
        raise SpecError(
            f"--{name.replace('_', '-')}: {added} contradicts {file}, which says {in_file}. Leave the option out."
        )
    return added


def _result(point: Point, source: Source, reading: Reading, session: int) -> Result:
    checked = Finding("imported", f"{source.tool}: llmbench neither measured nor checked it")
    return Result(
        protocol=NOT_OURS,
        id=point.id,
        session=session,
        attempt=1,
        status=Status.OK,
        warnings=[checked, *reading.warnings],
        cell=point,
        outcome=Outcome(
            cell=point.id,
            load_s=reading.load_s,
            samples=reading.samples,
            memory=reading.memory,
            given=reading.given,
            imported=source,
        ),
        environment=NOT_SAID,
        ended=reading.ended or NOT_SAID,
    )
