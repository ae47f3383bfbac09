"""What a user can find by asking: shipped sweeps by name, backends with their options, options on the command line."""

import json
from pathlib import Path

import pytest

from llmbench import backends
from llmbench.cli import run
from llmbench.errors import SpecError
from llmbench.spec import overrides, sweep
from llmbench.spec.sweep import Axes, Sweep

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
        "llmbench: sweep: 'quickstat' is neither a file nor a sweep that comes with llmbench. "
        "Did you mean 'quickstart'? 'llmbench sweeps' lists them.\n"
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
