"""What a user can find by asking: shipped sweeps by name, backends with their options, options on the command line."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ruamel.yaml import YAML

from llmbench import backends
from llmbench.cli import COMMANDS, command_group, run
from llmbench.errors import SpecError
from llmbench.machine import chips
from llmbench.models import resolve
from llmbench.run import plan
from llmbench.spec import example, overrides, sweep
from llmbench.spec.sweep import Axes, Deadlines, Protocol, Sweep

EXAMPLE = Path(__file__).parent / "golden" / "format-1"
DECLARED = {name: backends.options(name) for name in backends.known()}


def with_options(backend: object, *given: str) -> object:
    asked = Sweep(name="x", axes=Axes(model="gpt2", backend=backend))  # type: ignore[arg-type]
    return overrides.with_options(asked, given, DECLARED).axes.backend


@pytest.mark.parametrize("name", sweep.shipped())
def test_a_shipped_sweep_is_read_by_its_name_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert sweep.read_sweep(Path(name)) == sweep.read_sweep(sweep.shipped()[name])


def test_a_file_goes_before_a_shipped_sweep_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text("name: mine\naxes: {model: gpt2}\n")

    assert sweep.read_sweep(Path("quickstart")).name == "mine"


def test_an_unknown_name_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sweep", "quickstat"]) == 2
    assert capsys.readouterr().err == (
        "llmbench: sweep: 'quickstat' is neither a file or folder, nor a sweep or model that llmbench knows. "
        "Did you mean 'quickstart'? 'llmbench sweeps' and 'llmbench models' list them.\n"
    )


def test_sweeps_lists_all_with_their_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sweeps", "--format", "json"]) == 0

    listed = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in listed] == list(sweep.shipped())
    assert all(each["why"] for each in listed)


@pytest.mark.parametrize("name", backends.known())
def test_every_option_of_a_backend_has_a_meaning_and_is_listed(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["backends", name, "--format", "json"]) == 0

    listed = json.loads(capsys.readouterr().out)
    assert [each["option"] for each in listed] == list(backends.options(name))
    assert set(backends.meanings(name)) == set(backends.options(name))
    assert all(each["meaning"] for each in listed)


@pytest.mark.parametrize(
    ("backend", "given", "expected"),
    [
        ("transformers", ["threads=2"], {"transformers": {"threads": [2]}}),
        ("transformers", ["threads=2,4"], {"transformers": {"threads": [2, 4]}}),
        ("transformers", ["compile=true"], {"transformers": {"compile": [True]}}),
        ("transformers", ["cache=static", "cache=dynamic"], {"transformers": {"cache": ["static", "dynamic"]}}),
        ({"transformers": {"threads": 8}}, ["threads=2"], {"transformers": {"threads": [2]}}),
        (["transformers", "vllm"], ["revision=x"], {"transformers": {"revision": ["x"]}, "vllm": {"revision": ["x"]}}),
        (["transformers", "vllm"], ["threads=2"], {"transformers": {"threads": [2]}, "vllm": {}}),
        ("vllm", ["cudagraph_capture_sizes=1,2,4"], {"vllm": {"cudagraph_capture_sizes": ["1,2,4"]}}),
        ("vllm", ["gpu_memory_utilization=0.5"], {"vllm": {"gpu_memory_utilization": [0.5]}}),
        ("vllm", ["enable_chunked_prefill=False"], {"vllm": {"enable_chunked_prefill": [False]}}),
        ("transformers", ["threads=many"], {"transformers": {"threads": ["many"]}}),  # refused by the grid
        ("transformers", [], "transformers"),
    ],
)  # fmt: skip
def test_options_are_set_for_every_backend_that_has_them(
    backend: object, given: list[str], expected: object
) -> None:
    assert with_options(backend, *given) == expected


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("thread=2", "transformers has no option 'thread'. Did you mean 'threads'?"),
        ("threads", "'threads' is not of the form KEY=VALUE."),
    ],
)
def test_an_option_that_no_backend_has_is_refused(given: str, told: str) -> None:
    with pytest.raises(SpecError, match=told.replace("?", r"\?")):
        with_options("transformers", given)


# -- the example -----------------------------------------------------------------------------------------


KINDS = (Sweep, Axes, Protocol, Deadlines)


def printed_example(capsys: pytest.CaptureFixture[str]) -> str:
    assert run(["sweep", "--example"]) == 0
    return capsys.readouterr().out


def test_every_key_of_a_sweep_file_has_one_meaning() -> None:
    keys = [key for kind in KINDS for key in example.defaults(kind)]

    assert sorted(keys) == sorted(example.MEANINGS)
    assert all(example.MEANINGS.values())


def test_the_example_has_every_key_at_its_default_and_can_be_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "all.yaml").write_text(printed_example(capsys))

    read = sweep.read_sweep(tmp_path / "all.yaml")

    assert read.protocol == Protocol()
    assert msgspec.structs.replace(read.axes, backend="transformers") == Axes(model="llama-7b@tiny")
    assert [cell.options for cell in plan.plan(read, chip=chips.chip("h200")).cells] == [{}]


def test_the_example_has_every_option_of_every_backend(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = printed_example(capsys)
    (tmp_path / "all.yaml").write_text(text.replace("    # ", "    "))

    read = sweep.read_sweep(tmp_path / "all.yaml")

    assert isinstance(read.axes.backend, dict)
    assert {name: set(options or ()) for name, options in read.axes.backend.items()} == {
        name: set(options) for name, options in DECLARED.items()
    }
    cells = plan.plan(read, chip=chips.chip("h200")).cells
    assert {(cell.backend, *cell.options) for cell in cells} == {
        (name, "load") if "load" in options else (name,) for name, options in DECLARED.items()
    }


@pytest.mark.parametrize("value", ["auto", "", "true", "null", "1", "a: b", 1, 2.5, True, None])
def test_a_value_of_the_example_is_read_as_it_was(value: object) -> None:
    read = YAML(typ="safe", pure=True).load(f"key: {example.spelled(value)}  # meaning")

    assert read == {"key": value}


# -- help ------------------------------------------------------------------------------------------------


WITHOUT_DEFAULT = {
    "sweep": {"--server", "--usd-per-hour", "--usd-per-gpu-hour", "--price", "--model", "--option"},
    "compare": {"--by"},
    "audit": {"--parity"},
    "export": {"--to"},
    "cost": {"--usd-per-hour", "--usd-per-gpu-hour", "--price", "--usd-per-kwh", "--tpot-under", "--against"},
    "claims": {"--plan", "--usd-per-hour", "--usd-per-gpu-hour", "--price", "--fail-on"},
}  # fmt: skip
"""Options that do nothing unless they are given."""


def options_of(command: str) -> list[Any]:
    return [one for one in command_group().load(command).params if one.param_type_name == "option"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_with_a_value_says_its_default(command: str) -> None:
    silent = {
        option.opts[0]
        for option in options_of(command)
        if not option.is_flag
        and not option.required
        and option.default is None
        and "[default: " not in option.help
    }

    assert silent == WITHOUT_DEFAULT.get(command, set())


def test_a_flag_has_one_name_in_all_commands() -> None:
    flags = {flag for command in COMMANDS for one in options_of(command) for flag in one.opts}

    assert flags.isdisjoint({"--metrics", "--output-dir"})
    meant = {one.opts[0] for command in COMMANDS for one in options_of(command) if "-o" in one.opts}
    assert meant == {"--output"}


@pytest.mark.parametrize(
    ("arguments", "now"),
    [
        (["table", "x", "--metrics", "all"], "--metric"),
        (["sweep", "x", "--output-dir", "y"], "--output"),
    ],
)
def test_an_old_name_of_a_flag_is_refused_with_the_new_one(
    arguments: list[str], now: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    assert f"Did you mean {now!r}?" in capsys.readouterr().err


def test_the_verdicts_and_exit_codes_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    run(["compare", "--help"])
    text = " ".join(capsys.readouterr().out.split())

    assert all(
        verdict in text for verdict in ("slower or more", "faster or less", "unclear", "missing")
    )
    assert "3 if the comparison is undecided" in text


# -- completion ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sweep --model llama-7", "llama-7b"),
        ("sweep --model gpt2,mixtral", "gpt2,mixtral-8x7b-v0.1"),
        ("sweep --backend tr", "transformers"),
        ("sweep quick", "quickstart"),
        ("sweep --machine h100", "h100-nvl h100-pcie h100-sxm"),
        ("machine h2", "h200"),
        ("models mixtral", "mixtral-8x7b-v0.1"),
        ("backends v", "vllm"),
        ("table run --metric tpo", "tpot_s"),
        ("compare a b --metric e2", "e2e_s"),
        ("claims --claim edge", "edge-models"),
        ("sweep ./", ""),
    ],
)
def test_a_shell_completes_values_and_loads_no_engine(words: str, expected: str) -> None:
    environment = {
        "_LLMBENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": f"llmbench {words}",
        "COMP_CWORD": str(words.count(" ") + 1),
    }
    code = (
        "import atexit, sys\n"
        "engines = {'torch', 'transformers', 'vllm'}\n"
        "atexit.register(lambda: print(*engines & set(sys.modules), file=sys.stderr, end=''))\n"
        "from llmbench.cli import main\n"
        "main()"
    )

    done = subprocess.run(
        (sys.executable, "-c", code),
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip

    assert set(expected.split()) <= set(done.stdout.split())
    assert all(word.startswith(words.rpartition(" ")[2]) for word in done.stdout.split())
    assert (done.returncode, done.stderr) == (0, "")


# -- advice ----------------------------------------------------------------------------------------------


OUTPUTS = Path(__file__).parent / "outputs"
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z-]+")


def unknown_flags(command: str, text: str) -> list[str]:
    """Return the flags in a text that neither the command has nor one that the same sentence names before them."""
    flags = {name: {flag for one in options_of(name) for flag in one.opts} for name in COMMANDS}
    unknown = []
    for sentence in re.split(r"(?<=[.;:]) (?=[A-Z])", " ".join(text.split())):
        for mention in FLAG.finditer(sentence):
            named = [
                name for name in COMMANDS if re.search(rf"\b{name}\b", sentence[: mention.start()])
            ]
            if not any(mention[0] in flags[name] for name in (command, *named)):
                unknown.append(sentence)
    return unknown


@pytest.mark.parametrize("path", sorted(OUTPUTS.iterdir()), ids=lambda path: path.stem)
def test_no_page_advises_a_flag_that_its_command_lacks(path: Path) -> None:
    first, _, rest = path.read_text(encoding="utf-8").partition("\n")

    assert unknown_flags(first.split()[2], rest) == []


def test_a_flag_that_a_command_lacks_is_seen() -> None:
    assert unknown_flags("report", "They differ. Use --cross-machine to compare them.")
    assert unknown_flags("report", "llmbench compare --cross-machine compares them.") == []


# -- names that are nearly right -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["machine", "h100"], "Did you mean 'h100-nvl', 'h100-pcie' or 'h100-sxm'?"),
        (["machine", "zzz"], "; 'llmbench machine --list' lists all."),
        (["models", "zzz"], "; 'llmbench models' lists all."),
        (["claims", "--claim", "zzz"], "; 'llmbench claims' lists all."),
        (
            ["backends", "zzz"],
            "Known: fake, fake_server, llamacpp, server, transformers, vllm, vllm_server.",
        ),
    ],
)
def test_many_names_are_no_answer(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert len(error) < 240


def test_the_known_chips_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["machine", "--list", "--format", "json"]) == 0

    assert [each["chip"] for each in json.loads(capsys.readouterr().out)] == list(chips.known())


def test_a_model_needs_no_flag_and_no_sweep_has_its_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["sweep", "llama-7b@tiny", "--dry-run"]) == 0
    alone = capsys.readouterr().out
    assert run(["sweep", "--model", "llama-7b@tiny", "--dry-run"]) == 0

    assert alone == capsys.readouterr().out
    assert not set(sweep.shipped()) & set(resolve.catalogue())


def test_a_run_that_is_left_out_is_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["table"]) == 2
    assert "there is no run under results/" in capsys.readouterr().err
    for age, name in enumerate(("b", "a", "c")):
        shutil.copytree(EXAMPLE, Path("results") / name)
        os.utime(Path("results") / name / "records.jsonl", (age, age))

    assert run(["table"]) == 0
    assert capsys.readouterr().err == "results/c: the newest run under results/.\n"
