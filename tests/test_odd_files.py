"""A pipe, a device, a folder, a socket or far too much in the place of a file: one line at once, never a wait."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmbench import files
from llmbench.machine import calibration, info, peaks
from llmbench.machine import state as machine_state
from llmbench.results import store
from sweeps import LLMBENCH, SINGLE, Bench, asked, assert_complete

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

pytestmark = pytest.mark.timeout(60)

HUGE_BYTES = 5 * 10**9


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_folder(path: Path) -> None:
    path.mkdir()


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        here = os.open(path.parent, os.O_RDONLY)
        made.bind(f"/proc/self/fd/{here}/{path.name}")  # a socket's own path may have 107 bytes
        os.close(here)


def too_large(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(HUGE_BYTES)


def nothing(path: Path) -> None:
    path.symlink_to("nowhere")


ODD = (a_pipe, a_folder, a_device, a_socket, too_large, nothing)

odd = pytest.mark.parametrize("odd", ODD, ids=lambda make: make.__name__)

ONE_BY_ONE = """
import json, sys, time
from sweeps import asked
for arguments in json.load(sys.stdin):
    begun = time.monotonic()
    code, out, err = asked(*arguments)
    print(json.dumps([code, out, err, time.monotonic() - begun]), flush=True)
"""


def refused(commands: Mapping[Callable[[Path], None], tuple[object, ...]], names: str) -> None:
    """Assert that each command refuses its odd file at once, in one line that names it, and with little memory."""
    done = subprocess.run(
        (sys.executable, "-c", ONE_BY_ONE), input=json.dumps([list(map(str, c)) for c in commands.values()]),
        capture_output=True, text=True, check=False, timeout=40,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30)),
    )  # fmt: skip

    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(commands), (done.stdout[-2000:], done.stderr[-2000:])
    for odd, (code, out, err, took_s) in zip(commands, answers, strict=True):
        assert (code, out) == (2, ""), (odd.__name__, err)
        assert err.count("\n") == 1
        assert names in err
        assert took_s < 10


# -- what is read --------------------------------------------------------------------------------------


def each(tmp_path: Path, *others: Callable[[Path], None]) -> dict[Callable[[Path], None], Path]:
    """Return a folder for each odd thing, but for the others."""
    folders: dict[Callable[[Path], None], Path] = {
        odd: tmp_path / odd.__name__ for odd in ODD if odd not in others
    }
    for folder in folders.values():
        folder.mkdir()
    return folders


def test_a_sweep_file_that_is_none_is_refused(tmp_path: Path) -> None:
    folders = each(tmp_path)
    for odd, folder in folders.items():
        odd(folder / "sweep.yaml")

    refused({o: ("sweep", f / "sweep.yaml", "--dry-run") for o, f in folders.items()}, "sweep.yaml")


def test_a_prompts_file_that_is_none_is_refused(tmp_path: Path) -> None:
    commands: dict[Callable[[Path], None], tuple[object, ...]] = {}
    for odd, folder in each(tmp_path).items():
        odd(folder / "prompts.txt")
        file = Bench(folder).write(axes={"prompts": str(folder / "prompts.txt")})
        commands[odd] = ("sweep", file, "-o", folder / "run")

    refused(commands, "prompts.txt")

    assert not list(tmp_path.glob("*/run"))


def test_a_configuration_that_is_no_file_is_refused(tmp_path: Path) -> None:
    folders = each(tmp_path)
    for odd, folder in folders.items():
        odd(folder / "config.json")

    refused({o: ("sweep", "--model", f, "--dry-run") for o, f in folders.items()}, "config.json")


def test_weights_that_are_no_file_are_refused(tmp_path: Path) -> None:
    folders = each(tmp_path, too_large)  # weights may be large
    for odd, folder in folders.items():
        (folder / "config.json").write_text('{"model_type": "llama"}')
        odd(folder / "model.safetensors")

    commands = {o: ("sweep", "--model", f, "--dry-run") for o, f in folders.items()}
    refused(commands, "model.safetensors")


def test_an_import_of_what_is_no_file_is_refused(tmp_path: Path) -> None:
    folders = each(tmp_path)
    for odd, folder in folders.items():
        odd(folder / "result.json")

    refused(
        {o: ("import", f / "result.json", "-o", f / "run") for o, f in folders.items()},
        "result.json",
    )

    assert not list(tmp_path.glob("*/run"))


@pytest.mark.parametrize("odd", [a_pipe, a_folder, a_device, a_socket, nothing])
@pytest.mark.parametrize("command", ["table", "report", "compare", "export", "fit", "claims"])
def test_records_that_are_no_file_are_refused(
    odd: Callable[[Path], None], command: str, tmp_path: Path
) -> None:
    runs = [tmp_path / "a", tmp_path / "b"][: 2 if command == "compare" else 1]
    for run in runs:
        run.mkdir()
        odd(run / store.RECORDS)

    code, out, err = asked(command, *runs)

    assert (code, out) == (2, "")
    assert f"{runs[0] / store.RECORDS}: is a " in err
    assert err.count("\n") == 1


@odd
def test_a_kept_file_that_is_none_costs_a_sentence_and_no_sweep(
    odd: Callable[[Path], None], bench: Bench, state: Path, measured: Path
) -> None:
    here = info.machine()
    for kept_file in (
        peaks.SHELF.path(peaks.key_of(here)),
        calibration.SHELF.path(info.identity_digest(here)),
    ):
        kept_file.parent.mkdir(parents=True)
        odd(kept_file)
    bench.write(axes={"batch_size": 1}, protocol=SINGLE)

    planned = asked("sweep", bench.file, "--dry-run")
    told = asked("machine")
    compared = asked("compare", measured, measured)

    assert planned.code == 0
    if odd in (a_pipe, too_large):  # what a sweep would wait for, or choke on
        done = bench.sweep()
        assert (done.code, done.err) == (0, "")
        assert_complete(done)
    assert told.code == compared.code == 0
    for answer in (told, compared):
        assert (str(state) in answer.out + answer.err) is (odd is not nothing)


# -- what is written -----------------------------------------------------------------------------------


def a_second_name(path: Path) -> None:
    other = path.parent.parent / "precious"
    other.write_text("precious")
    path.hardlink_to(other)


@pytest.mark.parametrize("name", store.OWN)
@pytest.mark.parametrize("odd", [a_pipe, a_folder, a_device, a_socket, a_second_name])
def test_a_run_is_not_written_over_what_is_no_file_of_its_own(
    odd: Callable[[Path], None], name: str, bench: Bench
) -> None:
    bench.write()
    bench.run.mkdir()
    odd(bench.run / name)

    code, out, err = asked("sweep", bench.file, "-o", bench.run)

    assert (code, out) == (2, "")
    assert err.startswith(f"llmbench: {bench.run / name}: ")
    assert err.count("\n") == 1
    if odd is a_second_name:
        assert (bench.folder / "precious").read_text() == "precious"


def test_a_stranger_among_the_logs_is_passed_over(bench: Bench, measured: Path) -> None:
    bench.copy(measured)
    bench.write()
    for odd in (*ODD, a_second_name):
        odd(bench.run / store.LOGS / f"{odd.__name__}.log")

    done = bench.sweep()

    assert (done.code, done.err) == (0, "")
    assert_complete(done)
    assert len(list((bench.run / store.LOGS).iterdir())) >= len(ODD) + 1


@pytest.mark.parametrize("odd", [a_pipe, a_folder, a_device, a_socket, a_second_name])
def test_a_log_is_not_written_to_what_is_no_file(odd: Callable[[Path], None], bench: Bench) -> None:
    bench.write(axes={"batch_size": 1})
    log = bench.run / store.LOGS / "forkserver-fake.log"
    log.parent.mkdir(parents=True)
    odd(log)

    done = bench.sweep()

    assert done.code == 2
    assert done.err.startswith(f"llmbench: {log}: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("odd", [a_pipe, a_device, a_socket, a_folder])
def test_an_answer_is_not_written_to_what_is_no_file(
    odd: Callable[[Path], None], measured: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    odd(output)
    kind = output.lstat().st_mode

    for command in (
        ("report", measured, "-o", output, "--force"),
        ("compare", measured, measured, "--format", "html", "-o", output),
        ("export", measured, "-o", output),
        ("claims", "--plan", "context-is-memory", "-o", output),
        ("claims", measured, "--format", "html", "-o", output),
    ):
        code, _, err = asked(*command)
        assert code == 2, command
        assert str(output) in err
        assert err.count("\n") == 1
    assert output.lstat().st_mode == kind


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a file system without any room."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder)
    if (
        shutil.which("mount") is None
        or subprocess.run(mount, capture_output=True, check=False).returncode
    ):
        pytest.skip("no right to mount")
    with contextlib.suppress(OSError), (folder / "filler").open("wb", 0) as stream:
        while True:
            stream.write(bytes(4096))
    yield folder
    subprocess.run(("umount", "-l", folder), check=True)


def test_a_full_disk_costs_one_line_and_leaves_nothing(
    full_disk: Path, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(full_disk.rglob("*"))
    result = Path(__file__).parent / "importers" / "llama_bench.jsonl"
    monkeypatch.setenv(machine_state.STATE, str(full_disk / "state"))

    for command, exits in (
        (("report", measured, "-o", full_disk / "page.html"), 4),
        (("compare", measured, measured, "--format", "html", "-o", full_disk / "page.html"), 4),
        (("claims", measured, "--format", "html", "-o", full_disk / "page.html"), 4),
        (("claims", "--plan", "context-is-memory", "-o", full_disk / "plan.yaml"), 2),
        (("export", measured, "-o", full_disk / "export.json"), 2),
        (("import", result, "-o", full_disk / "imported"), 2),
        (("calibrate", measured), 2),
    ):
        code, _, err = asked(*command)
        assert code == exits, (command, err)
        assert "No space left" in err or "are free" in err
        assert err.count("\n") == 1
    assert [path for path in full_disk.rglob("*") if path.is_file()] == before


@pytest.mark.parametrize("command", ["table", "export", "models", "--help", "sweep"])
def test_output_to_a_full_disk_costs_one_line(command: str, bench: Bench, measured: Path) -> None:
    bench.write()
    runs = {"table": (measured,), "export": (measured,), "sweep": (bench.file, "-o", bench.run)}

    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            (*LLMBENCH, command, *runs.get(command, ())),
            stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip

    assert done.returncode == 4
    assert "No space left" in done.stderr
    assert done.stderr.count("\n") == 1
    assert bench.gone()


# -- the helper ----------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_written_whole_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("before")
    script = (
        "import resource, signal, sys; from pathlib import Path; from llmbench import files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "for write, name in ((files.replace, 'kept'), (files.write_new, 'new')):\n"
        "    try: write(Path(name), bytes(2000))\n"
        "    except OSError as error: print(error.strerror)\n"
    )

    done = subprocess.run(
        (sys.executable, "-c", script), cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert done.stdout == "File too large\n" * 2
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "before"


def test_a_file_that_grows_while_it_is_read_is_not_read_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(11))

    with pytest.raises(OSError, match="is larger than"):
        files.read(path, 10)
    assert files.read(path, 11) == bytes(11)
