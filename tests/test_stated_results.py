"""Sentences about the committed runs: each figure and verdict in them is what a command says today.

A comment before a paragraph has a line for each: words of the paragraph, a command, and the place of the value in its
JSON. `cells[batch_size=1].verdict` takes the verdict of every cell whose batch size is 1; `!=` takes the others. A
word must be every value, a figure must be every value once rounded, and `LOW to HIGH` the least and the greatest.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llmbench import cli

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "scripts" / "docs.py"))
COMMENT = re.compile(r"<!-- stated\n(.*?)-->\s*", re.DOTALL)
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
FIGURE = re.compile(r"(?<![\w.@-])\d[\d,.]*\d|(?<![\w.@-])\d(?![\w-])")
SETTING = re.compile(r"\b(?:batch|context|protocol) \d+|\b\d+ (?:sequences|cores|million)\b")
"""Figures that say what was measured."""
VERDICT = re.compile(r"\b(?:faster|slower|same|unclear|longer|as long|ahead|less|more than)\b")
RUN = re.compile(r"`(?:cpu-(?:small|7b|engines)|claims-cpu[\w-]*)`|results/20")
"""The name of a committed run."""


class Stated(NamedTuple):
    """Words of a page, and the command and the place in its JSON that they rest on."""

    page: str
    words: str
    command: str
    place: str


def paragraphs(text: str) -> list[tuple[str, str]]:
    """Return the comment before each paragraph, or "", and the paragraph, without generated parts and code."""
    text = CODE.sub("", SCRIPT["MARKED"].sub("", text))
    comments = [found[1] for found in COMMENT.finditer(text)]
    parts = COMMENT.sub(lambda _: "\n\n\0", text).split("\n\n")
    given = iter(comments)
    return [
        (next(given) if part.startswith("\0") else "", " ".join(part.strip("\0").split()))
        for part in parts
        if part.strip()
    ]


def lines(page: str, comment: str) -> list[Stated]:
    """Return what a comment states, a line each."""
    return [Stated(page, *re.split(r" <- | -> ", line)) for line in comment.splitlines()]


PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in SCRIPT["pages"]()
    if path.name != "claims.md"  # test_claims_by_hand.py holds its figures
}
PARAGRAPHS = [(page, *part) for page, text in PAGES.items() for part in paragraphs(text)]
STATED = [one for page, comment, _ in PARAGRAPHS for one in lines(page, comment)]


@functools.cache
def said(command: str) -> Any:
    """Return what a command says in JSON."""
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(io.StringIO()) as out:
        code = cli.run([*shlex.split(command)[1:], "--format", "json"])
    assert code in (0, 1, 3), command
    return json.loads(out.getvalue())


def values(facts: Any, place: str) -> list[Any]:
    """Return every value at a place such as `cells[batch_size=1].ratio`."""
    found = [facts]
    for key, conditions in re.findall(r"(\w+)(?:\[([^\]]*)\])?", place):
        found = [one for each in found for one in listed(each[key])]
        for condition in filter(None, conditions.split(",")):
            name, differs, wanted = re.fullmatch(r"(\w+)(!?)=(.+)", condition).groups()  # type: ignore[union-attr]
            found = [one for one in found if (str(one[name]) == wanted) != bool(differs)]
    return found


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def agrees(words: str, found: list[Any]) -> bool:
    """Return whether words say what the values are: a verdict, a figure, or the least and the greatest."""
    figures = FIGURE.findall(words)
    if not figures:
        return bool(found) and all(verdict in words for verdict in found)
    least_and_greatest = len(figures) == 2
    shown = [min(found), max(found)] if found and least_and_greatest else found
    told = figures if least_and_greatest else figures * len(shown)
    return bool(shown) and [rounded(*pair) for pair in zip(shown, told, strict=True)] == told


def rounded(value: float, like: str) -> str:
    """Return a value with as many decimals as a figure has."""
    return f"{value:.{len(like.partition('.')[2])}f}"


@pytest.mark.parametrize("one", STATED, ids=[f"{one.page}: {one.words}" for one in STATED])
def test_a_stated_result_is_what_its_command_says(one: Stated) -> None:
    found = values(said(one.command), one.place)

    assert agrees(one.words, found), found


@pytest.mark.parametrize(("page", "comment", "text"), PARAGRAPHS)
def test_a_paragraph_about_results_rests_on_commands(page: str, comment: str, text: str) -> None:
    if page != "docs/results.md" and not RUN.search(text):
        return
    stated = [one.words for one in lines(page, comment)]
    rest = SETTING.sub("", text)
    for words in stated:
        assert words in text
        rest = rest.replace(words, "")

    assert FIGURE.findall(rest) == []
    assert VERDICT.findall(rest) == []


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("1.7 times", [1.76]), ("1.7 times", [1.73, 1.8]), ("1.7 times", []), ("faster", ["faster", "unclear"]),
        ("0.47 to 0.74", [0.47, 0.75]), ("0.47 to 0.74", [0.48, 0.74]), ("in all 12 cells", [11]),
    ],
)  # fmt: skip
def test_another_value_does_not_agree(words: str, found: list[Any]) -> None:
    assert not agrees(words, found)
