"""Reports of tests with guests, made safe for terminals: guests' own words are in them."""

from __future__ import annotations

import re

import pytest

from pytest_kernelvm.printable import printable

# The colours that pytest puts into comparisons and captured logs if its terminal shows colours
# (ECMA-48, SGR).
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CAPTURED_LOG = "Captured log"


def make_printable(
    report: pytest.TestReport, error: BaseException | None, *, coloured: bool
) -> None:
    """Spell out in all that a report shows what must not reach a terminal.

    Texts that a test compares, prints or raises usually come from its guests.

    Args:
        report: The report, which is changed.
        error: What the test ended with, None if it passed.
        coloured: Whether pytest uses colours. They look like those of a guest, so texts that have
            any lose all of them.
    """
    compared = coloured and isinstance(error, AssertionError)
    _make_safe(report.longrepr, uncoloured=compared)
    if isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        report.longrepr = path, line, printable(reason)
    elif isinstance(report.longrepr, str):
        report.longrepr = _safe_text(report.longrepr, uncoloured=compared)
    report.sections = [
        (title, _safe_text(text, uncoloured=coloured and title.startswith(_CAPTURED_LOG)))
        for title, text in report.sections
    ]


def _safe_text(text: str, *, uncoloured: bool) -> str:
    return printable(_COLOUR.sub("", text) if uncoloured else text)


def _make_safe(part: object, *, uncoloured: bool) -> None:
    """Make the texts safe in a part of pytest's representation of an exception, in place."""
    if not hasattr(part, "toterminal"):
        return
    for name, value in list(vars(part).items()):
        setattr(part, name, _safe(value, uncoloured=uncoloured))


def _safe(value: object, *, uncoloured: bool) -> object:
    match value:
        case str():
            return _safe_text(value, uncoloured=uncoloured)
        case list() | tuple():
            return type(value)([_safe(each, uncoloured=uncoloured) for each in value])
    _make_safe(value, uncoloured=uncoloured)
    return value
