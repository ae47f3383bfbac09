"""Conversion of readings to a run with one record per session, which every command can read."""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from llmbench.errors import RunError, SpecError, Unconvertible
from llmbench.importers import Reading, read
from llmbench.results import store
from llmbench.results.record import Finding, Import, Outcome, Result, Source, Status
from llmbench.spec.digest import digest_of
from llmbench.spec.sweep import NOT_OURS, NOT_SAID, Point, slug

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from llmbench.importers import Said, ToolFile

TEXTS = ("model", "backend", "device", "dtype", "load_format", "prompts")
LENGTHS = ("batch_size", "input_len", "output_len")

RENAMED = ("model",)
"""Coordinates that the user may give differently from the file, which may name a model by its folder."""


def write(  # noqa: PLR0913 - each is said apart by the command
    files: Iterable[Path],
    said: Said,
    name: str | None,
    folder: Path,
    command: str,
    at: str,
    machine: str = "",
    *,
    as_sessions: bool = False,
) -> None:
    """Read files of other tools and write them as a run, all of them or none.

    Tests of the same settings are cells of their own, unless the user says that they are sessions of one.

    Raises:
        Unconvertible: a file cannot be read or converted, or is given twice.
        SpecError: the user contradicts a file.
        RunError: the folder is not empty, or cannot be written.

    """
    if (folder / store.RECORDS).exists():
        raise RunError(f"{folder}: already contains a run; import into a new folder.")
    sources, results = _converted(files, said, name, as_sessions=as_sessions)
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
    files: Iterable[Path], said: Said, name: str | None, *, as_sessions: bool
) -> tuple[list[Source], list[Result]]:
    sources: list[Source] = []
    found: list[Found] = []
    seen: dict[str, str] = {}
    for number, path in enumerate(files, 1):
        tool, document, readings = read(path, said, name)
        if document.sha256 in seen:
            raise Unconvertible(
                f"{document.name}: is the same as {seen[document.sha256]}; give each session's file once."
            )
        seen[document.sha256] = document.name
        sourced = [(_source(tool, document, reading), reading) for reading in readings]
        sources.append(sourced[0][0])
        found += [
            Found(source, reading, _facts(source, reading, said), number, entry)
            for entry, (source, reading) in enumerate(sourced, 1)
        ]
    return sources, list(_results(found, as_sessions=as_sessions))


class Found(NamedTuple):
    """A reading with its source, its coordinates, the number of its file, and its number in the file."""

    source: Source
    reading: Reading
    facts: dict[str, Any]
    file: int
    entry: int

    @property
    def places(self) -> dict[str, Any]:
        """Return what tells apart rows whose settings are the same, in order; the last always does."""
        traits = {"version": self.source.version, **self.reading.traits}
        return {**traits, "file": self.source.file, "test": f"{self.file}.{self.entry}"}


WHERE = ("file", "test")
"""The places that say nothing of what was measured."""
MOST_TOLD = 4
"""More columns of builds and machines than this hide the numbers; the first ones are the most important."""


def _source(tool: str, document: ToolFile, reading: Reading) -> Source:
    return Source(
        tool=tool,
        file=document.name,
        sha256=document.sha256,
        version=reading.version,
        samples=reading.timed,
        refused=reading.refused,
    )


def _results(found: Sequence[Found], *, as_sessions: bool) -> Iterator[Result]:
    """Yield the readings as cells; those that nothing but their place tells apart are sessions if the user says so."""
    names = _telling(found, as_sessions=as_sessions)
    sessions: Counter[str] = Counter()
    here: set[tuple[int, str]] = set()
    for one in found:
        places = one.places
        facts = {**one.facts, "options": {**one.facts["options"], **_stated(places, names)}}
        known = {k: v for k, v in places.items() if k not in WHERE}
        digest = digest_of({"cell": facts, "places": known if as_sessions else places})
        point = _point(one.source, facts, digest)
        if (one.file, point.id) in here:
            raise Unconvertible(
                f"{one.source.file}: contains the same test twice; a repetition in one process is not a second "
                "session. Leave out --as-sessions."
            )
        here.add((one.file, point.id))
        sessions[point.id] += 1
        yield _result(point, one.source, one.reading, sessions[point.id])


def _telling(found: Sequence[Found], *, as_sessions: bool) -> list[str]:
    """Return the names of the places in which rows differ that would look alike without them.

    Where they are in the order of files is said only if nothing else tells them apart.
    """
    names = dict.fromkeys(name for one in found for name in one.places if name not in WHERE)
    telling = [name for name in names if _varies(found, (), name)][:MOST_TOLD]
    for name in () if as_sessions else WHERE:
        if _varies(found, telling, name):
            telling.append(name)
    return telling


def _varies(found: Sequence[Found], names: Sequence[str], name: str) -> bool:
    """Return whether this place differs among readings that look alike with the other names."""
    groups = _groups(found, names)
    return any(len({one.places.get(name) for one in group}) > 1 for group in groups)


def _groups(found: Sequence[Found], names: Sequence[str]) -> Iterable[list[Found]]:
    groups: defaultdict[bytes, list[Found]] = defaultdict(list)
    for one in found:
        key = {**one.facts, "places": _stated(one.places, names)}
        groups[msgspec.json.encode(key, order="deterministic")].append(one)
    return groups.values()


def _stated(places: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {name: places[name] for name in names if places.get(name) is not None}


def _facts(source: Source, reading: Reading, said: Said) -> dict[str, Any]:
    """Return the coordinates of a reading, by the names of a cell's fields."""
    facts: dict[str, Any] = {
        name: _coordinate(source.file, reading, said, name) for name in (*TEXTS, *LENGTHS)
    }
    for name in TEXTS:
        facts[name] = facts[name] or NOT_SAID
    stated = reading.where.get("options", {})
    taken = {**facts, "tool": "", "model_digest": "", "id": "", "options": ""}
    options = {f"{key}_in_file" if key in taken else key: value for key, value in stated.items()}
    facts["options"] = {"tool": source.tool, **options}
    facts["model_digest"] = NOT_SAID
    return facts


def _point(source: Source, facts: Mapping[str, Any], digest: str) -> Point:
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
