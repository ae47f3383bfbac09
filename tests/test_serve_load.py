"""Loads: their forms, and the times at which requests of an open loop are due."""

from __future__ import annotations

import numpy as np
import pytest

from llmbench.errors import SpecError
from llmbench.serve.arrivals import arrivals
from llmbench.spec.grid import loads
from llmbench.spec.load import Load, is_open, parse


@pytest.mark.parametrize(
    ("text", "load"),
    [
        ("8", Load("closed", 8)),
        (" 20/s", Load("poisson", 1024, 20.0)),
        ("poisson 0.5/s", Load("poisson", 1024, 0.5)),
        ("constant  20/s", Load("constant", 1024, 20.0)),
        ("gamma 20/s cv 2", Load("gamma", 1024, 20.0, 2.0)),
    ],
)
def test_a_load_is_read(text: str, load: Load) -> None:
    assert parse(text) == load


def test_a_rate_has_one_spelling_and_an_open_loop_no_batch() -> None:
    assert loads("poisson  5/s,8,constant 5/s") == ["5/s", "8", "constant 5/s"]
    assert [is_open(options) for options in ({"load": "5/s"}, {"load": "8"}, {})] == [
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "text",
    ["", "0", "-1", "8.5", "99999", "x", "20/m", "gamma 20/s", "20/s cv 2", "constant 20/s cv 1", "0/s", "1e9/s", "²",
     "gamma 20/s cv 0", "99999/s", "mostly"],
)  # fmt: skip
def test_what_is_no_load_is_refused_with_the_forms(text: str) -> None:
    with pytest.raises(SpecError, match="load: "):
        parse(text)


@pytest.mark.parametrize(
    ("load", "cv"),
    [
        (Load("poisson", 1, 50.0), 1.0),
        (Load("constant", 1, 50.0), 0.0),
        (Load("gamma", 1, 50.0, 2.0), 2.0),
    ],
)
def test_arrivals_have_the_rate_and_the_spread_that_were_asked_for(load: Load, cv: float) -> None:
    due = arrivals(load, "seed", 400.0)

    gaps = np.diff(due) / 1e9
    assert (gaps >= 0).all()
    assert due[-1] <= 400e9
    assert 1 / gaps.mean() == pytest.approx(50, rel=0.1)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, abs=0.1)


def test_the_same_seed_gives_the_same_arrivals_and_another_others() -> None:
    load = Load("poisson", 1, 50.0)

    assert (arrivals(load, "a", 10) == arrivals(load, "a", 10)).all()
    assert arrivals(load, "a", 10).tolist() != arrivals(load, "b", 10).tolist()
