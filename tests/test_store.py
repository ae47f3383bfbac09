"""Runs on disk: what was acknowledged stays, what is damaged is named, and one process writes at a time."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmbench.errors import FormatError, RunError, RunLocked, WriteError
from llmbench.results import lines as results_lines
from llmbench.results import store
from llmbench.results.record import Begin, Line, Plan, Record, Stop
from make_records import make_begin, make_cell, make_plan, make_record, make_samples

CELL = make_cell()
SAMPLES = make_samples([1.0, 1.1, 1.2], ttft_s=0.2, tokens=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a run with a plan and the records of sessions 1 to 3."""
    folder = tmp_path / "run"
    with store.open_run(folder) as run:
        run.append(make_plan([CELL]))
        for session in (1, 2, 3):
            run.append(record(session))
    return folder


def record(session: int) -> Record:
    return make_record(CELL, session, SAMPLES)


def lines_of(folder: Path) -> list[bytes]:
    return (folder / store.RECORDS).read_bytes().splitlines(keepends=True)


def sessions(folder: Path) -> list[int]:
    return [line.session for line in store.read(folder) if isinstance(line, Record)]


def rewrite(folder: Path, data: bytes) -> None:
    (folder / store.RECORDS).write_bytes(data)


# -- appending and reading ---------------------------------------------------------------------------


def test_what_is_appended_is_read_back_in_order(tmp_path: Path) -> None:
    written: list[Line] = [
        make_plan([CELL]),
        make_begin(CELL, 1),
        record(1),
        Stop(cell=CELL.id, sessions=1, reason="maximum"),
    ]

    with store.open_run(tmp_path) as run:
        for line in written:
            run.append(line)

    assert list(store.read(tmp_path)) == written
    assert store.read(tmp_path).plan == written[0]
    assert store.read(tmp_path).notices == []


def test_the_last_plan_is_the_one_that_counts(folder: Path) -> None:
    with store.open_run(folder) as run:
        run.append(make_plan([CELL], name="later"))

    plan = store.read(folder).plan

    assert plan is not None
    assert plan.name == "later"


def test_every_line_is_json_and_its_last_member_is_its_checksum(folder: Path) -> None:
    for line in lines_of(folder):
        members = json.loads(line)

        assert next(iter(members)) == "kind"
        assert list(members)[-1] == "crc32"
        assert results_lines.intact(line)


def test_records_can_be_read_as_a_smaller_struct(folder: Path) -> None:
    class Small(msgspec.Struct, tag_field="kind", tag="end"):
        session: int

    assert [small.session for small in store.read(folder).records(Small)] == [1, 2, 3]


def test_a_log_holds_what_was_there_when_it_was_read(folder: Path) -> None:
    log = store.read(folder)

    with store.open_run(folder) as run:
        run.append(record(4))

    assert len(list(log)) == 4
    assert len(list(store.read(folder))) == 5


def test_reading_writes_nothing(folder: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in (folder, *folder.iterdir())}

    list(store.read(folder))

    assert {path.name: path.stat().st_mtime_ns for path in (folder, *folder.iterdir())} == before


@pytest.mark.parametrize("numbers", [10**30, [10**400], [1.5, 10**400]])
def test_a_whole_number_of_any_size_is_written(numbers: object) -> None:
    assert json.loads(results_lines.encode({"a": numbers})) == {"a": numbers}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_json_cannot_say_is_refused_and_nothing_is_written(
    folder: Path, number: float
) -> None:
    before = lines_of(folder)

    with store.open_run(folder) as run, pytest.raises(ValueError, match="is no number"):
        run.append(make_record(CELL, 4, telemetry={"clock": number}))

    assert lines_of(folder) == before


@pytest.mark.parametrize("name", ["org/model[/bold]", "a\nb\x1b[0m\x00", "模型 🚀 \u202e", 'q"\\'])
def test_a_strange_name_is_stored_exactly(tmp_path: Path, name: str) -> None:
    written = make_record(make_cell(model=name), 1)

    with store.open_run(tmp_path) as run:
        run.append(written)

    assert list(store.read(tmp_path)) == [written]


def test_half_a_surrogate_is_stored_as_its_escape(tmp_path: Path) -> None:
    with store.open_run(tmp_path) as run:
        run.append(make_record(CELL, 1, reason="bad \udcff byte"))

    (line,) = store.read(tmp_path)
    assert isinstance(line, Record)
    assert line.reason == r"bad \udcff byte"


def test_run_json_tells_the_plan_to_people(folder: Path) -> None:
    plan = make_plan([CELL])

    with store.open_run(folder) as run:
        run.describe(plan)

    text = (folder / store.DESCRIPTION).read_text()
    assert '\n  "name": "example",\n' in text
    assert msgspec.json.decode(text, type=Plan) == plan
    assert sorted(path.name for path in folder.iterdir()) == [store.RECORDS, store.DESCRIPTION]


# -- what a crash leaves behind ----------------------------------------------------------------------


def test_a_torn_tail_is_set_aside_and_the_next_append_reads_back(folder: Path) -> None:
    before = (folder / store.RECORDS).read_bytes()
    torn = lines_of(folder)[-1][:100]
    rewrite(folder, before + torn)

    with store.open_run(folder) as run:
        run.append(record(4))

    assert run.notices == [
        "records.jsonl: its last line was cut short; 100 bytes are now in records.jsonl.torn."
    ]
    assert (folder / store.RECORDS).read_bytes().startswith(before)
    assert torn in (folder / store.TORN).read_bytes()
    assert sessions(folder) == [1, 2, 3, 4]
    assert store.read(folder).notices == []


def test_a_second_torn_tail_is_set_aside_beside_the_first(folder: Path) -> None:
    for tail in (b'{"kind":"end","first', b'{"kind":"end","second'):
        with (folder / store.RECORDS).open("ab") as stream:
            stream.write(tail)
        store.open_run(folder).close()

    aside = (folder / store.TORN).read_text()
    assert '{"kind":"end","first\n' in aside
    assert '{"kind":"end","second\n' in aside


def test_a_line_that_is_being_written_is_not_read_yet(folder: Path) -> None:
    whole = (folder / store.RECORDS).read_bytes()
    rewrite(folder, whole[:-1])

    log = store.read(folder)

    assert len(list(log)) == 3
    assert log.notices == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_wherever_the_file_is_cut_whole_records_stay_and_appending_goes_on(
    folder: Path, data: st.DataObject
) -> None:
    run_folder = folder.with_name("cut")
    shutil.rmtree(run_folder, ignore_errors=True)
    shutil.copytree(folder, run_folder)
    whole = (folder / store.RECORDS).read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    rewrite(run_folder, whole[:cut])

    with store.open_run(run_folder) as run:
        run.append(record(9))

    kept = whole[: whole.rfind(b"\n", 0, cut) + 1]
    assert (run_folder / store.RECORDS).read_bytes().startswith(kept)
    assert len(list(store.read(run_folder))) == kept.count(b"\n") + 1
    assert store.read(run_folder).notices == []


def with_nul_block(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], bytes(512) + b"\n", *lines[2:]]


def with_junk(lines: list[bytes]) -> list[bytes]:
    return [*lines[:2], b"half a li\n", *lines[2:]]


def with_flipped_digit(lines: list[bytes]) -> list[bytes]:
    digit = lines[2].index(b'"e2e_ns":1') + len('"e2e_ns":')
    return [*lines[:2], lines[2][:digit] + b"3" + lines[2][digit + 1 :], *lines[3:]]


@pytest.mark.parametrize(
    ("damage", "left"),
    [(with_nul_block, [1, 2, 3]), (with_junk, [1, 2, 3]), (with_flipped_digit, [1, 3])],
)
def test_a_damaged_line_is_named_and_passed_over_and_never_rewritten(
    folder: Path, damage: object, left: list[int]
) -> None:
    assert callable(damage)
    damaged = b"".join(damage(lines_of(folder)))
    rewrite(folder, damaged)

    with store.open_run(folder) as run:
        run.append(record(4))

    assert run.notices == ["records.jsonl: line 3: damaged and skipped."]
    assert (folder / store.RECORDS).read_bytes().startswith(damaged)
    assert sessions(folder) == [*left, 4]


def test_any_flipped_bit_is_found(folder: Path) -> None:
    line = lines_of(folder)[1]

    for bit in range(0, 8 * len(line), 3):
        flipped = bytearray(line)
        flipped[bit // 8] ^= 1 << bit % 8
        assert not results_lines.intact(bytes(flipped)), f"bit {bit} of {line[bit // 8 :][:20]!r}"


def test_a_flipped_newline_loses_no_record(folder: Path) -> None:
    lines = lines_of(folder)
    lines[1] = lines[1][:-1] + b"\x0b"
    rewrite(folder, b"".join(lines))

    assert sessions(folder) == [1, 2, 3]
    assert store.read(folder).notices == ["records.jsonl: line 2: damaged and skipped."]


def test_nuls_without_a_newline_take_no_record_with_them(folder: Path) -> None:
    lines = lines_of(folder)
    rewrite(folder, b"".join([*lines[:2], bytes(4096), *lines[2:]]))

    assert sessions(folder) == [1, 2, 3]


def test_many_damaged_lines_make_one_notice(folder: Path) -> None:
    lines = lines_of(folder)
    rewrite(folder, b"".join([lines[0], b"x\n" * 3, *lines[1:], b"y\n"]))

    assert store.read(folder).notices == ["records.jsonl: lines 2-4, 8: damaged and skipped."]


def test_a_file_truncated_to_nothing_is_an_empty_run_that_says_so(folder: Path) -> None:
    with store.open_run(folder) as run:
        run.describe(make_plan([CELL]))
    rewrite(folder, b"")

    log = store.read(folder)

    assert list(log) == []
    assert log.notices == ["records.jsonl: the plan is missing; run.json still has it."]
    assert log.plan == make_plan([CELL])


def test_records_that_vanished_beside_run_json_are_an_empty_run_too(folder: Path) -> None:
    with store.open_run(folder) as run:
        run.describe(make_plan([CELL]))
    (folder / store.RECORDS).unlink()

    assert list(store.read(folder)) == []


# -- formats -----------------------------------------------------------------------------------------


def newer(line: bytes, *, sealed: bool) -> bytes:
    members = {**json.loads(line), "format": 2}
    members.pop("crc32")
    data = json.dumps(members, separators=(",", ":")).encode()
    return results_lines.seal(data) if sealed else data + b"\n"


@pytest.mark.parametrize("sealed", [True, False])
def test_a_newer_format_is_refused_by_reader_and_writer_and_left_as_it_is(
    folder: Path, sealed: bool
) -> None:
    torn = b'{"kind":"end","torn'
    data = b"".join([*lines_of(folder), newer(lines_of(folder)[1], sealed=sealed), torn])
    rewrite(folder, data)

    with pytest.raises(FormatError, match=r"records\.jsonl: is of format 2, .* up to 1\."):
        list(store.read(folder))
    with pytest.raises(FormatError, match="Read it with the version that wrote it"):
        store.open_run(folder)
    assert (folder / store.RECORDS).read_bytes() == data


def test_a_field_that_this_version_does_not_know_is_passed_over_and_survives(folder: Path) -> None:
    members = {**json.loads(lines_of(folder)[1]), "session": 4, "colour": "blue"}
    members.pop("crc32")
    line = results_lines.seal(json.dumps(members).encode())
    rewrite(folder, b"".join([*lines_of(folder), line]))

    with store.open_run(folder) as run:
        run.append(record(5))

    assert sessions(folder) == [1, 2, 3, 4, 5]
    assert line in lines_of(folder)


def test_a_kind_that_this_version_does_not_know_is_noticed_and_passed_over(folder: Path) -> None:
    line = results_lines.seal(b'{"kind":"remark","format":1,"text":"hello"}')
    rewrite(folder, b"".join([*lines_of(folder), line]))
    log = store.read(folder)

    assert len(list(log)) == 4
    (notice,) = log.notices
    assert "a line was not understood and was skipped" in notice
    assert "remark" in notice


def test_the_golden_file_of_format_1_is_read() -> None:
    log = store.read(Path(__file__).parent / "golden" / "format-1")

    lines = list(log)

    assert [type(line) for line in lines[:3]] == [Plan, Begin, Record]
    assert [
        (line.session, line.status.value, line.verdict)
        for line in lines
        if isinstance(line, Record)
    ] == [
        (1, "ok", "valid"),
        (1, "oom", "failed"),
        (2, "interrupted", "failed"),
        (2, "ok", "valid with warnings"),
        (2, "invalid", "invalid"),
    ]
    assert isinstance(lines[-1], Stop)
    assert log.notices == []


# -- folders that will not do ------------------------------------------------------------------------


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match="there is a file where a folder should be"):
            store.open_run(folder)


def test_a_directory_or_link_in_the_place_of_the_records_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a" / store.RECORDS).mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / store.RECORDS).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(RunError, match="is a folder; a run needs regular files of its own"):
        store.open_run(tmp_path / "a")
    with pytest.raises(RunError, match="is a symbolic link"):
        store.open_run(tmp_path / "b")
    with pytest.raises(RunError, match="is a folder, not a file of records"):
        store.read(tmp_path / "a")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [("", "has no records"), ("none", "does not exist"), ("file", "is not a directory")],
)
def test_a_folder_that_is_not_a_run_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(RunError, match=reason):
        store.read(tmp_path / name)


def test_a_folder_of_runs_names_one(tmp_path: Path) -> None:
    for name in ("2026-11-25-x", "2026-11-26-x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / store.RECORDS).touch()

    with pytest.raises(RunError, match=r"It contains 2 runs, such as 2026-11-26-x\.$"):
        store.read(tmp_path)


def test_too_little_room_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "LEAST_ROOM_BYTES", 2**70)

    with pytest.raises(RunError, match="MiB are free, and a sweep needs"):
        store.open_run(tmp_path)


def test_a_working_directory_that_was_deleted_is_a_plain_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    with pytest.raises(RunError, match="cannot be written"):
        store.open_run(Path("results/run"))


# -- one process at a time ---------------------------------------------------------------------------

HOLD = """
import sys, pathlib, time
from llmbench.results import store
run = store.open_run(pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_and_told_who_holds_the_run(folder: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()

        with pytest.raises(RunLocked, match=rf"is in use by process {holder.pid} on \S+ since 20"):
            store.open_run(folder)
        list(store.read(folder))

        holder.kill()
    store.open_run(folder).close()


def test_the_lock_is_not_inherited_by_a_program_that_was_started(folder: Path) -> None:
    with store.open_run(folder):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)

    store.open_run(folder).close()

    child.kill()
    child.wait()


def test_a_run_that_is_closed_leaves_no_lock_behind(folder: Path) -> None:
    with store.open_run(folder):
        assert (folder / store.LOCK).exists()

    assert not (folder / store.LOCK).exists()


# -- a full disk -------------------------------------------------------------------------------------


def test_a_full_device_is_an_error_with_path_and_bytes_and_room_makes_it_work_again(
    folder: Path,
) -> None:
    before = lines_of(folder)
    with store.open_run(folder) as run:
        good, full = os.dup(run._records), os.open("/dev/full", os.O_RDWR)
        os.dup2(full, run._records)

        with pytest.raises(
            WriteError, match=r"records\.jsonl: cannot write [\d,]+ bytes: No space left"
        ) as caught:
            run.append(record(4))
        os.dup2(good, run._records)
        run.append(record(5))

    assert caught.value.exit_code == 4
    assert lines_of(folder)[:4] == before
    assert sessions(folder) == [1, 2, 3, 5]


FILE_LIMIT = """
import pathlib, resource, sys
sys.path.insert(0, sys.argv[2])
from test_store import record, store, WriteError
folder = pathlib.Path(sys.argv[1])
size = (folder / store.RECORDS).stat().st_size
with store.open_run(folder) as run:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 700, hard))
    try:
        run.append(record(4))
    except WriteError as error:
        print(error)
    print((folder / store.RECORDS).stat().st_size == size)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    run.append(record(5))
"""


def test_a_short_write_is_rolled_back_to_the_last_whole_record(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILE_LIMIT, folder, Path(__file__).parent],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "only 700 of them were written. All earlier records are safe" in done.stdout
    assert done.stdout.endswith("True\n")
    assert sessions(folder) == [1, 2, 3, 5]


def test_a_disk_that_fills_up_loses_nothing_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=17m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs privileges")
    try:
        fill_and_free(disk)
    finally:
        subprocess.run(["umount", disk], check=True)


def fill_and_free(disk: Path) -> None:
    with store.open_run(disk / "run") as run:
        run.append(record(1))
        ballast = disk / "ballast"
        with pytest.raises(OSError, match="No space left"):
            fill(ballast)
        with pytest.raises(WriteError, match="make room and resume"):
            append_until_it_fails(run)
        acknowledged = sessions(disk / "run")
        ballast.unlink()
        run.append(record(100))

    assert sessions(disk / "run") == [*acknowledged, 100]
    assert store.read(disk / "run").notices == []


def fill(ballast: Path) -> None:
    with ballast.open("wb", buffering=0) as stream:
        while True:
            stream.write(bytes(4096))


def append_until_it_fails(run: store.Run) -> None:
    for session in itertools.count(2):
        run.append(record(session))


# -- kill -9 -----------------------------------------------------------------------------------------

WRITE = """
import pathlib, sys
sys.path.insert(0, sys.argv[2])
from test_store import record, store
with store.open_run(pathlib.Path(sys.argv[1])) as run:
    for session in range(int(sys.argv[3]), 1_000_000):
        run.append(record(session))
        print(session, flush=True)
"""


def test_a_writer_killed_at_random_moments_loses_no_acknowledged_record(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    dice = random.Random(0)  # noqa: S311 - moments, not secrets
    for attempt in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITE, tmp_path, Path(__file__).parent, str(1000 * attempt)],
            stdout=subprocess.PIPE,
            text=True,
        )
        with writer:
            assert writer.stdout is not None
            acknowledged.append(int(writer.stdout.readline()))
            time.sleep(dice.uniform(0, 0.1))
            writer.send_signal(signal.SIGKILL)
            acknowledged += map(int, writer.stdout.read().split("\n")[:-1])

        found = sessions(tmp_path)
        assert set(acknowledged) <= set(found)
        assert len(found) == len(set(found))
    assert len(acknowledged) > 8


def test_a_record_is_on_the_disk_before_append_returns(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    with store.open_run(folder) as run:
        monkeypatch.setattr(
            os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size)
        )
        run.append(make_begin(CELL, 1))

    assert synced == [(folder / store.RECORDS).stat().st_size]
