"""A document as JUnit's XML, which CI systems read: its suites, a testcase a check.

The layout has no standard; this is the part that Jenkins, GitLab and others agree on. No times are written, because
a check has none of its own. Characters beyond ASCII are written by number, which every encoding can say.
"""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from llmbench.redact import shown
from llmbench.report.document import unmarked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from llmbench.report import Page
    from llmbench.report.document import Check, Document, Outcome, Suite

COUNTED: Mapping[str, Outcome] = {"failures": "failure", "errors": "error", "skipped": "skipped"}
"""The attributes that count outcomes."""


def render(document: Document, page: Page) -> str:
    """Return the suites as XML; the page does not matter."""
    del page
    suites = list(document.suites)
    every = chain.from_iterable(suite.checks for suite in suites)
    root = Element("testsuites", {"name": unmarked(document.title), **_counts(every)})
    for suite in suites:
        _suite(SubElement(root, "testsuite"), suite, document.facts)
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, "us-ascii").decode()}\n'


def _suite(element: Element, suite: Suite, facts: Mapping[str, str]) -> None:
    """Write a suite in the order that schemas ask for: properties, testcases, output."""
    element.attrib |= {"name": shown(suite.name), **_counts(suite.checks)}
    if facts:
        properties = SubElement(element, "properties")
        for name, value in facts.items():
            SubElement(properties, "property", name=shown(name), value=shown(value))
    for check in suite.checks:
        case = SubElement(element, "testcase", classname=shown(suite.name), name=shown(check.name))
        if check.outcome != "passed":
            said = {"type": check.kind, "message": unmarked(check.why)}
            SubElement(case, check.outcome, said).text = _lines(check.detail)
        elif check.detail:
            SubElement(case, "system-out").text = _lines(check.detail)
    if suite.warnings:
        SubElement(element, "system-err").text = _lines("\n".join(suite.warnings))


def _lines(text: str) -> str:
    """Return lines in which nothing can act."""
    return "\n".join(map(unmarked, text.split("\n")))


def _counts(checks: Iterable[Check]) -> dict[str, str]:
    counted = Counter(check.outcome for check in checks)
    counts = {name: str(counted[outcome]) for name, outcome in COUNTED.items()}
    return {"tests": str(counted.total()), **counts}
