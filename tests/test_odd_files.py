"""A pipe, a device, a folder, a socket or far too much in the place of a file: one line at once, never a wait."""

from __future__ import annotations

import contextlib
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
from sweeps import LLMBENCH, asked, assert_complete

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sweeps import Bench

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


def refused(*arguments: object, names: str) -> None:
    """Assert that a command refuses a file at once, in one line that names it, and with little memory."""
    done = subprocess.run(
        (*LLMBENCH, *map(str, arguments)),
        capture_output=True, text=True, check=False, timeout=20,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30)),
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (2, ""), done.stderr[-2000:]
    assert done.stderr.count("\n") == 1
    assert names in done.stderr


# -- what is read --------------------------------------------------------------------------------------


@odd
def test_a_sweep_file_that_is_none_is_refused(odd: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    odd(path)

    refused("sweep", path, "--dry-run", names="sweep.yaml")


@odd
def test_a_prompts_file_that_is_none_is_refused(odd: Callable[[Path], None], bench: Bench) -> None:
    path = bench.folder / "prompts.txt"
    odd(path)
    bench.write(axes={"prompts": str(path)})

    refused("sweep", bench.file, "-o", bench.run, names="prompts.txt")

    assert not bench.run.exists()


@odd
def test_a_configuration_that_is_no_file_is_refused(
    odd: Callable[[Path], None], tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    odd(tmp_path / "model" / "config.json")

    refused("sweep", "--model", tmp_path / "model", "--dry-run", names="config.json")


@odd
def test_weights_that_are_no_file_are_refused(odd: Callable[[Path], None], tmp_path: Path) -> None:
    if odd is too_large:
        pytest.skip("weights may be large")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    odd(tmp_path / "model.safetensors")

    refused("sweep", "--model", tmp_path, "--dry-run", names="model.safetensors")


@odd
def test_an_import_of_what_is_no_file_is_refused(
    odd: Callable[[Path], None], tmp_path: Path
) -> None:
    odd(tmp_path / "result.json")

    refused("import", tmp_path / "result.json", "-o", tmp_path / "run", names="result.json")

    assert not (tmp_path / "run").exists()


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
    bench.write(axes={"batch_size": 1})

    done = bench.sweep()
    told = asked("machine")
    compared = asked("compare", measured, measured)

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


@pytest.mark.parametrize("odd", [*ODD, a_second_name])
def test_a_stranger_among_the_logs_is_passed_over(
    odd: Callable[[Path], None], bench: Bench, measured: Path
) -> None:
    bench.copy(measured)
    bench.write()
    odd(bench.run / store.LOGS / "x.log")

    done = bench.sweep()

    assert (done.code, done.err) == (0, "")
    assert_complete(done)


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
