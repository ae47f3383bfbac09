"""From a sweep to its cells: ids that stay, ranges, repetitions, options."""

import contextlib
import itertools
import re
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmbench.errors import SpecError
from llmbench.spec import grid
from llmbench.spec.grid import Choices
from llmbench.spec.sweep import Axes, Cell, Deadlines, Protocol, Sweep

CHOICES = Choices(
    model_digests={"org/small": "1111111111", "org/large": "2222222222"},
    options={"fake": {"clock": ("real", "virtual"), "ttft_ms": 5.0, "call": 5, "when": ""}},
    device="cpu",
    prompt_digests={"text.txt": "3333333333"},
    dtypes={"org/small": "float32", "org/large": "float32"},
)


def a_sweep(protocol: Protocol | None = None, **axes: Any) -> Sweep:
    given_axes = {"model": "org/small", "backend": "fake", "input_len": 8, "output_len": 4, **axes}
    return Sweep(name="x", why="y", axes=Axes(**given_axes), protocol=protocol or Protocol())


def cells(sweep: Sweep, choices: Choices = CHOICES) -> list[Cell]:
    return grid.expand(sweep, choices)[0]


def the_id(protocol: Protocol | None = None, choices: Choices = CHOICES, **axes: Any) -> str:
    (cell,) = cells(a_sweep(protocol, **axes), choices)
    return cell.id


def test_an_id_is_what_it_has_always_been() -> None:
    assert the_id() == "small-fake-float32-b1-i8-o4-a77ebe339f"


@pytest.mark.parametrize(
    "axes",
    [
        {"model": "org/large"},
        {"dtype": "bfloat16"},
        {"device": "cuda"},
        {"load_format": "safetensors"},
        {"prompts": "text.txt"},
        {"batch_size": 2},
        {"input_len": 9},
        {"output_len": 5},
        {"backend": {"fake": {"clock": "virtual"}}},
        {"backend": {"fake": {"ttft_ms": 6.0}}},
    ],
)
def test_an_id_changes_with_what_changes_the_number(axes: dict[str, Any]) -> None:
    assert the_id(**axes) != the_id()


@pytest.mark.parametrize(
    "settings",
    [
        {"iterations": 6},
        {"max_iterations": 500},
        {"min_time_s": 1.0},
        {"warmup": 4},
        {"warmup_within": 0.05},
        {"warmup_budget_s": 5.0},
        {"isolation": "cell"},
    ],
)
def test_an_id_changes_with_how_it_is_measured(settings: dict[str, Any]) -> None:
    assert the_id(Protocol(**settings)) != the_id()


@pytest.mark.parametrize(
    "settings",
    [
        {"sessions": 5},
        {"max_sessions": 20},
        {"interval_within": 0.1},
        {"seed": 7},
        {"budget_s": 60.0},
        {"nursery": "session"},
        {"deadlines": Deadlines(load_s=5.0)},
    ],
)
def test_an_id_stays_with_what_only_says_how_often_or_how_patiently(
    settings: dict[str, Any],
) -> None:
    assert the_id(Protocol(**settings)) == the_id()


def test_an_id_changes_with_the_weights_and_the_text_behind_a_name() -> None:
    weights = msgspec.structs.replace(CHOICES, model_digests={"org/small": "9999999999"})
    text = msgspec.structs.replace(CHOICES, prompt_digests={"text.txt": "9999999999"})

    assert the_id(choices=weights) != the_id()
    assert the_id(choices=text, prompts="text.txt") != the_id(prompts="text.txt")


def test_the_id_of_a_default_is_the_same_written_out() -> None:
    written = {"fake": {"clock": "real", "ttft_ms": 5}}

    assert the_id(backend=written) == the_id(backend="fake") == the_id(backend=["fake"])
    assert the_id(device="auto") == the_id(device="cpu")
    assert the_id(dtype="auto") == the_id(dtype="float32") == the_id(dtype="fp32")


def test_the_dtype_of_an_unknown_checkpoint_must_be_named() -> None:
    unknown = msgspec.structs.replace(CHOICES, dtypes={})

    with pytest.raises(
        SpecError,
        match="not known for 'org/small', which is no folder here and not in the hub's cache; name one",
    ):
        grid.expand(a_sweep(), unknown)
    (cell,), _ = grid.expand(a_sweep(dtype="bf16"), unknown)
    assert cell.dtype == "bfloat16"


def test_ids_do_not_depend_on_the_order_of_values_or_options() -> None:
    one = a_sweep(batch_size=[1, 2, 4], backend={"fake": {"call": 7, "ttft_ms": 1.0}})
    two = a_sweep(batch_size=[4, 1, 2], backend={"fake": {"ttft_ms": 1.0, "call": 7}})

    assert {cell.id for cell in cells(one)} == {cell.id for cell in cells(two)}


def test_the_grid_is_the_product_of_its_axes() -> None:
    sweep = a_sweep(
        model=["org/small", "org/large"],
        batch_size="1-4*2",
        input_len=[8, 16],
        backend={"fake": {"clock": ["real", "virtual"]}},
    )

    found = cells(sweep)

    assert len(found) == len({cell.id for cell in found}) == 2 * 3 * 2 * 2
    assert [cell.model for cell in found] == ["org/small"] * 12 + ["org/large"] * 12


def test_a_repeated_value_is_dropped_with_a_warning() -> None:
    found, warnings = grid.expand(a_sweep(batch_size=[1, 2, 1]), CHOICES)

    assert [cell.batch_size for cell in found] == [1, 2]
    assert warnings == ["batch_size: 1 given more than once; measured once."]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("7", [7]),
        ("1,8,64", [1, 8, 64]),
        ("1 8  64", [1, 8, 64]),
        ("1-4", [1, 2, 3, 4]),
        ("1-64*2", [1, 2, 4, 8, 16, 32, 64]),
        ("3-50*4", [3, 12, 48]),
        ("128-512+128", [128, 256, 384, 512]),
        ("1,4-8+2,64", [1, 4, 6, 8, 64]),
        ("5-5", [5]),
    ],
)
def test_a_range_is_its_values(text: str, values: list[int]) -> None:
    assert grid.integers(text, "here") == values


@pytest.mark.parametrize(
    "text", ["", ",", "x", "1.5", "-1", "1-", "8-1", "0-8*2", "1-8*1", "1-8+0", "1-8-2", "1e3", "²"]
)
def test_what_is_no_range_is_refused_by_name(text: str) -> None:
    with pytest.raises(SpecError, match=r"^here: "):
        grid.integers(text, "here")


@given(st.text(max_size=20))
def test_any_text_is_whole_numbers_or_a_mistake(text: str) -> None:
    with contextlib.suppress(SpecError):
        assert all(number >= 0 for number in grid.integers(text, "here"))


@given(st.integers(1, 50), st.integers(0, 500), st.integers(2, 5))
def test_a_range_by_factors_multiplies_up_to_its_end(first: int, more: int, factor: int) -> None:
    values = grid.integers(f"{first}-{first + more}*{factor}", "here")

    assert values[0] == first
    assert all(late == early * factor for early, late in itertools.pairwise(values))
    assert values[-1] <= first + more < values[-1] * factor


NAMES = st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=3, unique=True)
LENGTHS = st.lists(st.integers(1, 4096), min_size=1, max_size=3, unique=True)
TIMES = st.lists(st.floats(0, 1e6), min_size=1, max_size=3, unique=True)


@given(NAMES, LENGTHS, LENGTHS, TIMES, st.randoms(use_true_random=False))
def test_the_ids_of_any_grid_are_distinct_and_safe_and_know_no_order(
    models: list[str], batches: list[int], lens: list[int], times: list[float], dice: Random
) -> None:
    digests = dict.fromkeys(models, "1111111111")
    dtypes = dict.fromkeys(models, "float32")
    choices = msgspec.structs.replace(CHOICES, model_digests=digests, dtypes=dtypes)

    def ids() -> list[str]:
        axes: dict[str, Any] = {"model": models, "batch_size": batches, "input_len": lens}
        return [c.id for c in cells(a_sweep(**axes, backend={"fake": {"ttft_ms": times}}), choices)]

    before = ids()
    for values in (models, batches, lens, times):
        dice.shuffle(values)

    assert len(set(before)) == len(models) * len(batches) * len(lens) * len(times)
    assert set(ids()) == set(before)
    assert all(re.fullmatch(r"[A-Za-z0-9@=][A-Za-z0-9@=.-]{0,106}", name) for name in before)
