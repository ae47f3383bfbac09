"""Lists the statements of src/ that run on CUDA only, and those that no test runs; `scripts/coverage-cuda` calls this.

A statement is CUDA-only if it is

- in a branch whose condition names CUDA, a GPU or its driver, or after a return where there is none,
- in a module, class or function that is named after them, or
- in a function or class that only such statements use,

and if no test on a CPU has run it. Definitions, imports and docstrings do not count.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SOURCE = Path("src/llmbench")
LEAST = 0.97
NAMED = re.compile(r"cuda|gpu|nvml|nvidia", re.IGNORECASE)
ABSENT = re.compile(r"^not .*(cuda|gpu|nvml|nvidia)|gpu is None|!= 'cuda'|== 'cpu'", re.IGNORECASE)
ENDING = (ast.Return, ast.Raise, ast.Continue, ast.Break)
MEASURING = ("backends", "machine", "measure", "run")
"""The folders that may know a GPU; the others read numbers."""
APART = "backends/vllm"
"""Has no stand-in of a device: its statements are listed, and not in the share."""
WHY_NOT: dict[str, str] = {
    "run/forkserver.py:forks_may_use_cuda": "runs in a fork that leaves at once, unseen by coverage",
}
"""Why the statements of a function are not run, by `file:function`."""


class Statement(NamedTuple):
    """A statement, by its file, first line, and the function that it is in."""

    file: str
    line: int
    function: str


class Reader(ast.NodeVisitor):
    """Reads a file for its CUDA-only statements, for the names that are used, and by whom.

    Attributes:
        statements: the CUDA-only statements.
        used: by name, whether each use of it is CUDA-only.
        defined: the names of functions and classes, each as often as it is defined.

    """

    def __init__(self, file: str, only: Iterable[str]) -> None:
        self.file, self.only = file, set(only)
        self.statements: list[Statement] = []
        self.used: dict[str, list[bool]] = defaultdict(list)
        self.defined: list[str] = []
        self.within: list[str] = []
        self.on_cuda = bool(NAMED.search(Path(file).stem))

    def read(self) -> Reader:
        """Read the file."""
        self.visit(ast.parse((SOURCE / self.file).read_text(encoding="utf-8")))
        return self

    def block(self, body: Iterable[ast.stmt], *, on_cuda: bool) -> None:
        """Read consecutive statements; what follows a return without CUDA is CUDA-only."""
        before, self.on_cuda = self.on_cuda, on_cuda
        for statement in body:
            if self.on_cuda and self.within and not _is_definition(statement):
                function = ".".join(self.within)
                self.statements.append(Statement(self.file, statement.lineno, function))
            self.visit(statement)
            if isinstance(statement, ast.If) and _ends_without_cuda(statement):
                self.on_cuda = True
        self.on_cuda = before

    def generic_visit(self, node: ast.AST) -> None:
        """Read the parts of a node; lists of statements are blocks."""
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                self.block(value, on_cuda=self.on_cuda)
            else:
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        self.visit(child)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.ClassDef) -> None:
        """Read a function, or the functions of a class."""
        self.defined.append(node.name)
        named = bool(NAMED.search(node.name)) or node.name in self.only
        self.within.append(node.name)
        in_class = isinstance(node, ast.ClassDef)
        body = [s for s in node.body if not in_class or _is_definition(s)]
        self.block(body, on_cuda=self.on_cuda or named)
        self.within.pop()

    visit_ClassDef = visit_FunctionDef  # noqa: N815 - ast's name

    def visit_If(self, node: ast.If | ast.IfExp) -> None:
        """Read both branches, of which one may be CUDA-only."""
        self.visit(node.test)
        with_it, without = _guards(node.test)
        for branch, guarded in ((node.body, with_it), (node.orelse, without)):
            before, self.on_cuda = self.on_cuda, self.on_cuda or guarded
            if isinstance(branch, list):
                self.block(branch, on_cuda=self.on_cuda)
            else:
                self.visit(branch)
            self.on_cuda = before

    visit_IfExp = visit_If  # noqa: N815 - ast's name

    def visit_Dict(self, node: ast.Dict) -> None:
        """Read a table: what stands under `cuda` is CUDA-only."""
        for key, value in zip(node.keys, node.values, strict=True):
            before = self.on_cuda
            self.on_cuda = before or (isinstance(key, ast.Constant) and key.value == "cuda")
            self.visit(value)
            self.on_cuda = before

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Read the value; a type is no use of a class."""
        if node.value:
            self.visit(node.value)

    def visit_Name(self, node: ast.Name) -> None:
        """Note the use of a name."""
        self._use(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Note the use of a name."""
        self._use(node.attr)
        self.visit(node.value)

    def _use(self, name: str) -> None:
        if name not in self.within:
            self.used[name].append(self.on_cuda)


def _is_definition(statement: ast.stmt) -> bool:
    documents = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    kinds = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Global, ast.Nonlocal)
    return documents or isinstance(statement, kinds)


def _guards(test: ast.expr) -> tuple[bool, bool]:
    """Return whether the branch with a condition is CUDA-only, and whether the one without it is."""
    text = ast.unparse(test)
    if ABSENT.search(text):
        return False, not isinstance(test, ast.BoolOp)
    return bool(NAMED.search(text)), False


def _ends_without_cuda(statement: ast.If) -> bool:
    return _guards(statement.test)[1] and isinstance(statement.body[-1], ENDING)


def cuda_only() -> set[Statement]:
    """Return the statements that only CUDA can reach."""
    files = [str(path.relative_to(SOURCE)) for path in sorted(SOURCE.rglob("*.py"))]
    only: set[str] = set()
    while True:
        readers = [Reader(file, only).read() for file in files]
        more = used_by_cuda_alone(readers)
        if more <= only:
            return {statement for reader in readers for statement in reader.statements}
        only |= more


def used_by_cuda_alone(readers: Iterable[Reader]) -> set[str]:
    """Return the functions and classes, of a name that no other has, that only CUDA-only code uses."""
    used: dict[str, list[bool]] = defaultdict(list)
    defined: dict[str, int] = defaultdict(int)
    for reader in readers:
        for name in reader.defined:
            defined[name] += 1
        for name, uses in reader.used.items():
            used[name] += uses
    return {
        name for name, times in defined.items() if times == 1 and used[name] and all(used[name])
    }


def main() -> int:
    """Print each file, and each statement that is not run with the reason; return 1 under 97 % or without a reason."""
    on_cpu, on_cuda = (lines(Path(argument)) for argument in sys.argv[1:3])
    measuring = [s for s in cuda_only() if Path(s.file).parts[0] in MEASURING]
    wanted = {s for s in measuring if s.line not in on_cpu.get(s.file, ())}
    missing = sorted(s for s in wanted if s.line not in on_cuda.get(s.file, ()))
    for file in sorted({s.file for s in wanted}):
        here = [s for s in wanted if s.file == file]
        print(f"{file:40} {len(here) - sum(s.file == file for s in missing):4} of {len(here):4}")
    unexplained = 0
    print("\nnot run:")
    for statement in missing:
        why = WHY_NOT.get(f"{statement.file}:{statement.function}", "")
        why = why or ("vLLM: no stand-in of a device" if statement.file.startswith(APART) else "")
        unexplained += not why
        print(
            f"{statement.file}:{statement.line} {statement.function}: {why or 'no reason is given'}"
        )
    counted = [s for s in wanted if not s.file.startswith(APART)]
    run = [s for s in counted if s not in missing]
    share = len(run) / len(counted)
    print(
        f"\n{len(run):,} of {len(counted):,} CUDA-only statements: {share:.1%} of at least {LEAST:.0%}"
    )
    return 1 if share < LEAST or unexplained else 0


def lines(measured: Path) -> Mapping[str, set[int]]:
    """Return the lines of each source file that ran, from coverage's JSON."""
    files = json.loads(measured.read_text(encoding="utf-8"))["files"]
    prefix = f"{SOURCE}/"
    return {
        name.removeprefix(prefix): set(found["executed_lines"])
        for name, found in files.items()
        if name.startswith(prefix)
    }


if __name__ == "__main__":
    sys.exit(main())
