"""Generates parts of README.md and docs/, each from the words in the comment above it.

A part is between `<!-- WORDS -->` and `<!-- end -->`. Without arguments this rewrites all parts; `--check` lists
outdated ones, and fails. The words are a command, whose Markdown output is inserted; `console: ` and a command,
which is shown with its output; or a name in `PARTS`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
import tempfile
from pathlib import Path
from unittest import mock

import msgspec

from llmbench import cli, importers
from llmbench.measure import reasons
from llmbench.report.views import backends as views_backends
from llmbench.results import metrics, store
from llmbench.results.record import Record
from llmbench.spec import example
from llmbench.spec import sweep as spec_sweep

ROOT = Path(__file__).parents[1]
MARKED = re.compile(
    r"<!-- ((?:console: )?llmbench [^\n]*?|(?:commands|drawing|imports|keys|metrics|options|warnings)\b[^\n]*?) -->\n"
    r"(.*?)<!-- end -->",
    re.DOTALL,
)
DRAWN = 60
"""Characters of the longest bar of a drawing."""
WIDTH = "100"
"""The width of console examples in columns; wider ones would need scrolling on most screens."""


def pages() -> list[Path]:
    """Return every page that users read."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rebuilt(text: str) -> str:
    """Return a page with every generated part rebuilt."""
    return MARKED.sub(lambda part: f"<!-- {part[1]} -->\n\n{made(part[1])}\n\n<!-- end -->", text)


def made(words: str) -> str:
    """Return one generated part."""
    if words.startswith("llmbench "):
        return printed(words)
    if words.startswith("console: "):
        return console(words.removeprefix("console: "))
    name, *arguments = words.split()
    return PARTS[name](*arguments)


def console(command: str) -> str:
    """Return a command and its output as a code block."""
    return f"```console\n$ {command}\n{printed(command)}\n```"


def printed(command: str) -> str:
    """Return the output of an llmbench command in the repository, without saved state of this machine."""
    pinned = {"COLUMNS": WIDTH, "NO_COLOR": "1"}
    with (
        tempfile.TemporaryDirectory() as state,
        mock.patch.dict(os.environ, {**pinned, "LLMBENCH_STATE": state}),
        contextlib.chdir(ROOT),
        contextlib.redirect_stdout(io.StringIO()) as out,
    ):
        code = cli.run(shlex.split(command)[1:])
    if code not in (0, 1, 3):  # compare: 1 if something is slower, 3 if undecided
        raise SystemExit(f"{command}: ended with exit code {code}.")
    return "\n".join(line.rstrip() for line in out.getvalue().strip().splitlines())


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# -- PARTS -----------------------------------------------------------------------------------------


def commands() -> str:
    """Return the help of every command."""
    parts = [f"## {name}\n\n{console(f'llmbench {name} --help')}" for name in cli.COMMANDS]
    return "\n\n".join(parts)


def all_metrics(whose: str) -> str:
    """Return the table of metrics: `ours`, which llmbench measures, or `theirs`, which it only imports."""
    rows = [
        [
            f"`{row.key}`",
            f"{row.label} ({row.unit.word})",
            row.better or "-",
            row.definition,
            row.clock,
            row.tokens or "-",
        ]
        for row in {"ours": metrics.OURS, "served": metrics.SERVED, "theirs": metrics.THEIRS}[whose]
    ]
    return table(["key", "column", "better", "definition", "clock", "tokens counted"], rows)


def options(backend: str) -> str:
    """Return a table of a backend's options, with meaning, default and other values."""
    rows = [
        [f"`{row['option']}`", row["meaning"], row["default"], row["others"]]
        for row in views_backends.options(backend)
    ]
    return table(["option", "meaning", "default", "other values"], rows)


def keys(part: str) -> str:
    """Return the keys of a part of a sweep file with their defaults and meanings."""
    defaults = example.defaults(getattr(spec_sweep, part.capitalize()))
    return table(
        ["key", "default", "meaning"],
        [[f"`{key}`", _default(value), example.MEANINGS[key]] for key, value in defaults.items()],
    )


def _default(value: object) -> str:
    if isinstance(value, msgspec.Struct) or value == "":
        return "see below" if value else "empty"
    return "required" if value is msgspec.NODEFAULT else f"`{example.spelled(value)}`"


def warnings() -> str:
    """Return every reason code of a warning with its meaning."""
    return table(
        ["code", "meaning"], [[f"`{code}`", text] for code, text in reasons.MEANINGS.items()]
    )


def drawing(run: str) -> str:
    """Return the memory of a run's only record to scale: each bar begins where what it comes on top of ends."""
    (memory,) = (line.outcome.memory for line in store.read(ROOT / run) if isinstance(line, Record))
    weights, cache, peak = memory.weights_bytes, memory.kv_cache_bytes, memory.peak_allocated_bytes
    reserved, process = memory.peak_reserved_bytes, memory.process_used_bytes
    bars = [
        ("weights", 0, weights),
        ("KV cache, held", weights, weights + cache),
        ("the rest: activations, workspace", weights + cache, peak),
        ("peak allocated", 0, peak),
        ("free in the allocator's segments", peak, reserved),
        ("peak reserved", 0, reserved),
        ("context", reserved, process),
        ("process used", 0, process),
        ("device used", 0, memory.device_used_bytes),
    ]
    scale = DRAWN / max(end for _, _, end in bars)
    wide = max(len(name) for name, *_ in bars)
    lines = [f"{'':{wide}}  {'MiB':>7}"]
    for name, start, end in bars:
        at = round(start * scale)
        bar = "█" * (round(end * scale) - at) or "▏"
        lines.append(f"{name:{wide}}  {(end - start) / 2**20:7,.1f}  {' ' * at}{bar}")
    return "\n".join(["```text", *lines, "```"])


def imports() -> str:
    """Return the fixtures of other tools' files: which tool in which version wrote each, and what is taken of it."""
    folder = ROOT / "tests" / "importers"
    written = re.findall(
        r"^\| `([\w.]+)` \| ([^|]+?) \|", (folder / "README.md").read_text(), re.MULTILINE
    )
    rows = []
    for name, tool in written:
        which, _, readings = importers.read(folder / name, {})
        taken = dict.fromkeys(key for one in readings for key in one.given)
        first = readings[0]
        whole = [
            *(["each iteration as `e2e_s`"] if first.samples else []),
            *(f"`{key}`" for key in taken),
            *(["`load_s`"] if first.load_s else []),
            *(["peaks of memory"] if first.memory else []),
        ]
        rows.append([tool, which, ", ".join(whole)])
    return table(["file of", "importer", "taken"], rows)


PARTS = {
    "commands": commands,
    "drawing": drawing,
    "imports": imports,
    "keys": keys,
    "metrics": all_metrics,
    "options": options,
    "warnings": warnings,
}


def main() -> int:
    """Rewrite the pages, or with --check compare them."""
    status = 0
    for page in pages():
        before = page.read_text(encoding="utf-8")
        after = rebuilt(before)
        if "--check" not in sys.argv:
            page.write_text(after, encoding="utf-8")
            continue
        for old, new in zip(MARKED.findall(before), MARKED.findall(after), strict=True):
            if old != new:
                print(f"{page.relative_to(ROOT)}: out of date: {old[0]}", file=sys.stderr)
                status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
