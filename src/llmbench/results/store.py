"""Runs on disk: one directory per run, one line per record in `records.jsonl`, appended and never rewritten.

A whole line is on the disk before `append` returns. Opening a run repairs what a crash or a full disk left: a torn
tail is set aside, a damaged line is reported and skipped.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from llmbench import files
from llmbench.results import lines as results_lines, lock, moved, parity, record
from llmbench.errors import FormatError, RunError, WriteError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

T = TypeVar("T")

RESULTS = Path("results")
"""The folder in which a sweep makes its run, unless it is told another."""
RECORDS = "records.jsonl"
DESCRIPTION = "run.json"
DESCRIPTION_NEW = "run.json.new"
LOCK = ".lock"
TORN = "records.jsonl.torn"
LOGS = "logs"
REQUESTS = "requests"
"""The folder of the raw requests of served cells, a file each session."""
OWN_LOG = re.compile(r"forkserver-[\w-]+\.log|\w+-s\d+-a\d+\.log")
"""How logs of ours are named."""
OWN = (RECORDS, DESCRIPTION, DESCRIPTION_NEW, TORN, LOCK)
"""The files that a run writes. A link in place of one, in a folder from elsewhere, would redirect the writes."""
MOST_NOTICES = 20
"""The most notices shown about damaged lines; nobody reads more."""
LONGEST_NOTICE = 300

RARE: dict[str, Any] = {
    "sweep": record.Plan,
    "import": record.Import,
    "stop": record.Stop,
    "parity": record.Parity,
    "place": record.Place,
    "move": record.Move,
}
"""The kinds of lines that concern a whole run or cell."""

LEAST_ROOM_BYTES = 16 * 2**20
"""The free space that a sweep needs to start: 5,000 records of 3 kB."""
PROBE_BYTES = 4096
MOST_DESCRIPTION_BYTES = 2**26
"""The size limit of `run.json`; the plan of 5,000 cells is a tenth of it."""


def open_run(folder: Path) -> Run:
    """Open a run directory for appending, creating it if needed, and repair what a crash left.

    Raises:
        RunError: the folder or its records cannot be written, or there is no room.
        RunLocked: another process holds it.
        FormatError: a newer llmbench wrote it.

    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_strange(folder)
        _refuse_others(folder)
        _probe(folder)
        held = lock.take(folder / LOCK)
        try:
            return Run(folder, held)
        except BaseException:
            lock.release(folder / LOCK, held)
            raise
    except OSError as error:
        raise RunError(f"{folder}: cannot be written: {_reason(error)}.") from error


def newest(names: str = ".*") -> Path | None:
    """Return the run under results/ that was written last, of those with such a name; None if there is none."""
    runs = [path.parent for path in RESULTS.glob(f"*/{RECORDS}")]
    named = [run for run in runs if re.fullmatch(names, run.name)]
    return max(named, key=lambda run: (run / RECORDS).stat().st_mtime, default=None)


def read(folder: Path, *, newer: bool = False, tell: Callable[[str], None] | None = None) -> Log:
    """Return the current content of a run, without locking or writing; raise RunError if it is not a run.

    With `newer`, lines of a later format are read as far as possible, with a notice. `tell` receives each notice
    once, for callers that do not show `notices`.
    """
    path = folder / RECORDS
    lost = (folder / DESCRIPTION).is_file() and not path.exists()
    if folder.is_dir() and (strange := files.why_not(path)):
        raise RunError(f"{path}: {strange}, not a file of records.")
    if not path.exists() and not lost:
        raise RunError(f"{folder}: {_no_run(folder)}")
    return Log(folder, newer=newer, tell=tell)


def _no_run(folder: Path) -> str:
    """Return why a folder is not a run, and which runs it contains, if any."""
    if not folder.exists():
        return "does not exist. Give the folder of a run."
    if not folder.is_dir():
        return "is not a directory. Give the folder of a run."
    runs = sorted(path.parent.name for path in folder.glob(f"*/{RECORDS}"))
    within = f" It contains {len(runs)} runs, such as {runs[-1]}." if runs else ""
    return f"is not a run: it has no {RECORDS}.{within}"


class Log:
    """The intact lines of a run up to a fixed moment, read and checked again in each iteration.

    This keeps memory constant. The plan, the verdicts on cells and the notices come from the first complete
    iteration, or from one made for them.
    """

    def __init__(
        self, folder: Path, *, newer: bool = False, tell: Callable[[str], None] | None = None
    ) -> None:
        """Fix the moment without reading anything."""
        self._folder, self._newer, self._tell = folder, newer, tell
        self._path = folder / RECORDS
        self._size = self._path.stat().st_size if self._path.exists() else 0
        self._plan: record.Plan | None = None
        self._imported: record.Import | None = None
        self._stops: dict[str, record.Stop] = {}
        self._refuted: dict[str, str] = {}
        self._errors_nats: dict[str, float] = {}
        self._places: list[record.Place] = []
        self._moved: dict[str, set[str]] = {}
        self._notices: dict[str, None] = {}
        self._checked = False

    @property
    def name(self) -> str:
        """Return the name of the run's folder."""
        return self._folder.resolve().name

    @property
    def plan(self) -> record.Plan | None:
        """Return the last plan written; None if it is missing."""
        self.check()
        return self._plan

    @property
    def imported(self) -> record.Import | None:
        """Return the sources of an imported run."""
        self.check()
        return self._imported

    @property
    def stops(self) -> dict[str, record.Stop]:
        """Return why each cell got no further session, by id; the last line counts."""
        self.check()
        return self._stops

    @property
    def refuted(self) -> dict[str, str]:
        """Return why the engine of a cell failed its parity check, by id; its records are invalid."""
        self.check()
        return self._refuted

    @property
    def errors_nats(self) -> dict[str, float]:
        """Return how far each cell's model is from a float32 reference, by id; the last verdict counts."""
        self.check()
        return self._errors_nats

    @property
    def places(self) -> list[record.Place]:
        """Return the boxes that measured; empty if it was one machine, on one GPU at a time."""
        self.check()
        return self._places

    @property
    def moved(self) -> dict[str, set[str]]:
        """Return the units that cells were moved away from, by the cell's id; their records there do not count."""
        self.check()
        return self._moved

    @property
    def notices(self) -> list[str]:
        """Return the problems of the file, in words."""
        self.check()
        return list(self._notices)

    def __iter__(self) -> Iterator[record.Line]:
        """Yield every line in order, including plans, fully decoded."""
        self.check()
        return self._decoded(results_lines.decode, self.lines())

    def lines(self) -> Iterator[bytes]:
        """Yield the bytes of every intact line."""
        return (line for _, line in self._lines())

    def records(self, kind: type[T]) -> Iterator[T]:
        """Yield only the records, each as the struct `kind`, which may have fewer fields than `Record`."""
        self.check()
        return self.as_written(kind)

    def as_written(self, kind: type[T]) -> Iterator[T]:
        """Yield the records; in the first iteration, without the verdicts on them, which may be later in the file."""
        ends = (line for held, line in self._lines() if held == "end")
        return self._decoded(msgspec.json.Decoder(kind).decode, ends)

    def check(self) -> None:
        """Read every line, unless done before; raise FormatError for an unsupported format."""
        if not self._checked:
            for _ in self._lines():
                pass

    def pass_over(self, why: str) -> None:
        """Note that a line was not understood."""
        if len(self._notices) < MOST_NOTICES:
            self._notice(f"a line was not understood and was skipped: {why[:LONGEST_NOTICE]}.")
        else:
            self._notice("more lines were not understood and were skipped.")

    def _decoded(self, decode: Callable[[bytes], T], lines: Iterable[bytes]) -> Iterator[T]:
        for line in lines:
            try:
                value = decode(line)
            except results_lines.NOT_UNDERSTOOD as error:
                self.pass_over(str(error))
            else:
                yield parity.with_verdict(value, self._refuted) if self._refuted else value

    def _lines(self) -> Iterator[tuple[str, bytes]]:
        """Yield the kind and the bytes of every intact line."""
        bad: list[int] = []
        rare: defaultdict[str, list[bytes]] = defaultdict(list)
        try:
            for line in results_lines.scan(self._path, self._size, bad.append):
                if line.startswith(results_lines.END_HEAD):
                    if not self._moved or not moved.is_left_behind(line, self._moved):
                        yield "end", line
                    continue
                try:
                    kind, version = results_lines.head_of(line)
                except results_lines.NOT_UNDERSTOOD as error:
                    self.pass_over(str(error))
                    continue
                if version > record.FORMAT:
                    self._meet_newer(version)
                if kind in RARE:
                    rare[kind].append(line)
                yield kind, line
        except FormatError as error:
            raise FormatError(f"{self._path}: {error}") from None
        except OSError as error:
            raise RunError(f"{self._path}: cannot be read: {_reason(error)}.") from error
        if not self._checked:
            self._conclude(bad, rare)

    def _meet_newer(self, version: int) -> None:
        error = results_lines.newer(version)
        if not self._newer:
            raise FormatError(f"{error} 'llmbench table' shows the part that it can read.")
        self._notice(f"{error} The output may be wrong.")

    def _conclude(self, bad: Sequence[int], rare: Mapping[str, list[bytes]]) -> None:
        self._checked = True
        if bad:
            lines = f"line{'s'[: len(bad) - 1]} {results_lines.as_ranges(bad)}"
            self._notice(f"{lines}: damaged and skipped.")
        read = {
            kind: list(self._decoded(msgspec.json.Decoder(struct).decode, rare.get(kind, ())))
            for kind, struct in RARE.items()
        }
        self._plan = (read["sweep"] or [None])[-1]
        self._imported = (read["import"] or [None])[-1]
        self._stops = {stop.cell: stop for stop in read["stop"]}
        self._refuted = parity.failed(read["parity"])
        self._errors_nats = parity.errors_nats(read["parity"])
        self._places = read["place"]
        self._moved = moved.units(read["move"])
        if self._plan is None and (self._folder / DESCRIPTION).is_file():
            self._plan = _described(self._folder / DESCRIPTION)
            still = "still has it" if self._plan else "is damaged, too"
            self._notice(f"the plan is missing; {DESCRIPTION} {still}.")

    def _notice(self, text: str) -> None:
        notice = f"{RECORDS}: {text}"
        if self._tell and notice not in self._notices:
            self._tell(f"{self._folder}/{notice}")
        self._notices[notice] = None


class Run:
    """A run directory held open for appending.

    Attributes:
        folder: the directory.
        log: its content when it was opened.
        notices: its problems at that time, in words.
        told: a function that converts each line before writing, such as `anonymous.line`.

    """

    def __init__(self, folder: Path, held: int) -> None:
        """Open the records under a lock already held; call `open_run` instead."""
        self.folder = folder
        self.told: Callable[[Any], Any] = lambda line: line
        self._path = folder / RECORDS
        self._held = held
        self._torn = False
        self._records = files.open_regular(
            self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, own=True
        )
        try:
            Log(folder).check()  # raises FormatError before changing anything
            cut = results_lines.set_torn_tail_aside(self._records, folder / TORN)
            _sync_directory(folder)
            self._whole = os.fstat(self._records).st_size
            self.log = Log(folder)
            self.notices = list(self.log.notices)
            if cut:
                self.notices.append(
                    f"{RECORDS}: its last line was cut short; {cut:,} bytes are now in {TORN}."
                )
        except BaseException:
            os.close(self._records)
            raise

    def append(self, line: record.Line | record.Result) -> None:
        """Write one line and return when it is on the disk.

        Raises:
            WriteError: it could not be written; the file ends with its last whole record, and appending works again
                when there is room.
            ValueError: a number in it is NaN or infinite.

        """
        data = results_lines.seal(results_lines.encode(self.told(line)))
        try:
            self._roll_back()
            self._write(data)
        except OSError as error:
            self._torn = True
            with contextlib.suppress(OSError):  # the next append or opening does it
                self._roll_back()
            raise WriteError(
                f"{self._path}: cannot write {len(data):,} bytes: {_reason(error)}. "
                "All earlier records are safe; make room and resume."
            ) from error
        self._whole += len(data)

    def _write(self, data: bytes) -> None:
        written = os.write(self._records, data)
        if written < len(data):
            raise OSError(errno.ENOSPC, f"only {written:,} of them were written")
        os.fsync(self._records)

    def _roll_back(self) -> None:
        """Cut off what a failed write left, and nothing else."""
        if not self._torn:
            return
        if os.fstat(self._records).st_size > self._whole:
            os.ftruncate(self._records, self._whole)
            os.fsync(self._records)
        self._torn = False

    def describe(self, plan: record.Plan) -> None:
        """Write `run.json`, the plan for people to read, atomically, unless it is up to date.

        Raises:
            WriteError: it could not be written.

        """
        path, new = self.folder / DESCRIPTION, self.folder / DESCRIPTION_NEW
        data = msgspec.json.format(results_lines.encode(self.told(plan)), indent=2) + b"\n"
        if _content(path) == data:
            return
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            with os.fdopen(files.open_regular(new, flags, own=True), "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            new.replace(path)
            _sync_directory(self.folder)
        except OSError as error:
            with contextlib.suppress(OSError):
                new.unlink()
            raise WriteError(
                f"{path}: cannot write {len(data):,} bytes: {_reason(error)}."
            ) from error

    def close(self) -> None:
        """Release the run; all appended lines are on the disk already."""
        os.close(self._records)
        lock.release(self.folder / LOCK, self._held)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _refuse_strange(folder: Path) -> None:
    """Raise RunError if something else is in the place of a file of the run, or of its folder of logs."""
    strange = {folder / name: files.why_not(folder / name, own=True) for name in OWN}
    logs = folder / LOGS
    if os.path.lexists(logs) and not stat.S_ISDIR(logs.lstat().st_mode):
        strange[logs] = "is a symbolic link" if logs.is_symlink() else "is not a folder"
    for path, why in strange.items():
        if why:
            raise RunError(f"{path}: {why}; a run needs regular files of its own.")


def _refuse_others(folder: Path) -> None:
    """Raise RunError if a folder without a run holds what a run would write to: somebody's own records or logs."""
    taken = [folder / name for name in (RECORDS, DESCRIPTION, TORN) if _has_content(folder / name)]
    if (folder / LOGS).is_dir():
        taken += [log for log in (folder / LOGS).iterdir() if not OWN_LOG.fullmatch(log.name)]
    if taken and not _holds_run(folder):
        raise RunError(
            f"{taken[0]}: is not of a run, and a run would write there. Use another --output."
        )


def _holds_run(folder: Path) -> bool:
    """Return whether anything in a folder shows that it is a run: a line, the beginning of the first one, the plan."""
    if _described(folder / DESCRIPTION):
        return True
    path = folder / RECORDS
    if not _has_content(path):
        return False
    with os.fdopen(files.open_regular(path), "rb") as stream:
        begins = results_lines.BEGINS.startswith(stream.read(len(results_lines.BEGINS)))
    try:
        return begins or any(results_lines.scan(path, path.stat().st_size, lambda _: None))
    except FormatError:  # for whoever reads it to say
        return True


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _probe(folder: Path) -> None:
    """Raise OSError unless a file can be created and synced here, and enough space is free."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())
    disk = os.statvfs(folder)
    free = disk.f_bavail * disk.f_frsize
    if free < LEAST_ROOM_BYTES:
        least = f"a sweep needs {LEAST_ROOM_BYTES / 2**20:.0f}"
        raise OSError(errno.ENOSPC, f"{free / 2**20:.1f} MiB are free, and {least}")


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _content(path: Path) -> bytes | None:
    try:
        return files.read(path, MOST_DESCRIPTION_BYTES)
    except OSError:
        return None


def _described(path: Path) -> record.Plan | None:
    try:
        return msgspec.json.decode(files.read(path, MOST_DESCRIPTION_BYTES), type=record.Plan)
    except (OSError, *results_lines.NOT_UNDERSTOOD):
        return None


def _reason(error: OSError) -> str:
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "there is a file where a folder should be"
    return error.strerror or str(error)
