"""One run, several invocations: what is done stays done, what is missing is added, the order is seeded."""

import shutil
import subprocess
from pathlib import Path

from llmbench.results import store
from llmbench.results.record import Plan, Record, Stop
from sweeps import BATCH_SIZES, LLMBENCH, VALID, Bench, assert_complete


def order(bench: Bench) -> list[tuple[int, int]]:
    """Return batch size and session of every record, as they were measured."""
    return [(record.cell.batch_size, record.session) for record in bench.records()]


def test_a_second_sweep_has_nothing_to_do(bench: Bench, measured: Path) -> None:
    bench.write()
    bench.copy(measured)
    before = bench.raw()

    second = bench.sweep()

    assert_complete(second)
    assert second.code == 0
    assert "Nothing left to measure: every planned session has ended." in second.out
    assert bench.raw() == before


def test_a_second_sweep_of_failures_says_so_again_and_repeats_none(bench: Bench) -> None:
    bench.write(fault="oom", when="batch_size=2,session=1")
    bench.sweep()
    before = bench.raw()

    second = bench.sweep()

    assert second.code == 3
    assert bench.raw() == before


def test_another_session_is_exactly_one_more_of_each_cell(bench: Bench, measured: Path) -> None:
    bench.write()
    bench.copy(measured)
    before = bench.raw()

    done = bench.sweep("--sessions", "3")

    assert done.code == 0
    assert_complete(done)
    assert bench.raw().startswith(before)
    assert sorted(order(bench)[6:]) == [(batch, 3) for batch in BATCH_SIZES]


def test_fewer_sessions_have_nothing_to_do(bench: Bench, measured: Path) -> None:
    bench.write()
    bench.copy(measured)
    records = len(bench.records())

    done = bench.sweep("--sessions", "1")

    assert done.code == 0
    assert len(bench.records()) == records


def test_a_cell_that_joins_the_sweep_is_measured_and_the_others_stay(
    bench: Bench, measured: Path
) -> None:
    bench.copy(measured)
    before = bench.raw()
    bench.write(axes={"batch_size": [*BATCH_SIZES, 8]})

    done = bench.sweep("--add")

    assert_complete(done)
    assert bench.raw().startswith(before)
    assert sorted(order(bench)[6:]) == [(8, 1), (8, 2)]


def test_another_sweep_does_not_join_a_run(bench: Bench, measured: Path) -> None:
    bench.write()
    bench.copy(measured)
    before = bench.raw()
    bench.file.write_text(bench.file.read_text().replace('"example"', '"other"'))

    done = bench.sweep()

    assert (done.code, bench.raw()) == (2, before)
    assert "contains a run of the sweep 'example', and this one is 'other'" in done.err
    assert "use another --output" in done.err


def test_the_order_is_seeded(bench: Bench) -> None:
    orders = []
    for name, seed, sessions in (("one", 1, 2), ("again", 1, 1), ("two", 2, 1)):
        bench.run = bench.folder / name
        bench.rows = bench.run / store.RECORDS
        protocol = {"seed": seed, "sessions": sessions, "max_sessions": 2}
        bench.write(axes={"batch_size": list(range(1, 9))}, protocol=protocol)
        bench.sweep("--sessions", str(sessions))
        orders.append(order(bench))

    one, again, two = orders
    assert one[:8] == again != two
    assert [batch for batch, session in one if session == 1] != list(range(1, 9))
    assert [session for _, session in one] == [1] * 8 + [2] * 8  # round by round
    assert [batch for batch, session in one if session == 1] != [
        batch for batch, session in one if session == 2
    ]


def test_sessions_are_added_until_the_interval_is_narrow(bench: Bench) -> None:
    protocol = {"sessions": 2, "max_sessions": 4, "interval_within": 0.01}
    bench.write(jitter=0.2, protocol=protocol, axes={"batch_size": 1})

    done = bench.sweep()

    assert done.code == 0
    assert "2 of 2 sessions to run, and up to 2 more if intervals stay wide." in done.out
    assert len(bench.records()) == 4
    assert [line.reason for line in store.read(bench.run) if isinstance(line, Stop)] == ["maximum"]
    before = bench.raw()
    assert bench.sweep().code == 0
    assert bench.raw() == before


def test_resuming_without_a_folder_finds_the_newest_run(bench: Bench) -> None:
    bench.write(axes={"batch_size": 1})

    for arguments in ((), (), ("--resume", "--sessions", "3")):
        command = (*LLMBENCH, "sweep", bench.file, *arguments)
        done = subprocess.run(command, cwd=bench.folder, check=False, capture_output=True)
        assert done.returncode in VALID, done.stderr

    first, second = sorted((bench.folder / "results").iterdir())
    assert second.name == f"{first.name}-2"
    assert [len(lines(Record, first)), len(lines(Record, second))] == [2, 3]
    assert [len(lines(Plan, first)), len(lines(Plan, second))] == [1, 2]


def lines(kind: type, folder: Path) -> list[object]:
    return [line for line in store.read(folder) if isinstance(line, kind)]


def test_a_torn_tail_is_set_aside_and_its_session_run_again(bench: Bench, measured: Path) -> None:
    bench.write()
    bench.copy(measured)
    whole = bench.raw()
    bench.rows.write_bytes(whole[:-40])

    done = bench.sweep()

    assert done.code == 0
    assert_complete(done)
    assert "its last line was cut short" in done.out
    assert bench.raw().startswith(whole[: whole[:-1].rfind(b"\n") + 1])


def test_a_line_that_was_hit_costs_its_own_session_only(bench: Bench, measured: Path) -> None:
    bench.write()
    bench.copy(measured)
    rows = bench.raw().splitlines(keepends=True)
    number = next(number for number, row in enumerate(rows) if b'"kind":"end"' in row)
    rows[number] = rows[number].replace(b'"session":1', b'"session":7', 1)
    bench.rows.write_bytes(b"".join(rows))

    done = bench.sweep()

    assert done.code == 0
    assert f"line {number + 1}: damaged and skipped" in done.out
    assert sorted(order(bench)) == sorted(
        (batch, session) for batch in BATCH_SIZES for session in (1, 2)
    )


def test_a_run_that_was_moved_goes_on(bench: Bench) -> None:
    bench.write(protocol={"sessions": 1, "max_sessions": 1})
    bench.sweep()
    shutil.move(bench.run, bench.folder / "moved")
    bench.run = bench.folder / "moved"
    bench.rows = bench.run / store.RECORDS

    done = bench.sweep("--sessions", "2")

    assert done.code == 0
    assert_complete(done)


def test_a_description_that_a_kill_kept_from_being_written_is_written_by_the_next(
    bench: Bench,
) -> None:
    bench.write(axes={"batch_size": 1})
    bench.sweep()
    before = (bench.run / store.DESCRIPTION).read_bytes()
    (bench.run / store.DESCRIPTION).rename(bench.run / store.DESCRIPTION_NEW)

    done = bench.sweep()

    assert_complete(done)
    assert (bench.run / store.DESCRIPTION).read_bytes() == before
    assert not (bench.run / store.DESCRIPTION_NEW).exists()


def test_the_logs_that_a_kill_left_are_cleaned_by_the_next(bench: Bench) -> None:
    bench.write(fault="hang", when="attempt=1,session=1", axes={"batch_size": 1})
    process = bench.start(environment={"A_TOKEN": "correct-horse"})
    bench.wait_for('"begin"', process)
    process.kill()
    bench.ended(process)
    (bench.run / "logs" / "left.log").write_text("login with correct-horse failed")
    (bench.run / "logs" / "empty.log").touch()

    assert_complete(bench.sweep(environment={"A_TOKEN": "correct-horse"}))

    assert (bench.run / "logs" / "left.log").read_text() == "login with <redacted> failed"
    assert all(path.stat().st_size for path in (bench.run / "logs").iterdir())
