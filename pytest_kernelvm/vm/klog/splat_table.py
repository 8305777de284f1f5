"""The table of all kinds of splats, and finding the row that a line matches.

Gathered from the sources of 6.1, 6.12 and 7.2: what calls dump_stack(), show_stack(), add_taint(),
WARN(), die() or panic(), and what is printed at the levels emergency and alert. What only comes as
the message of a WARN (refcount_t, ODEBUG, DMA-API, proc_dir_entry, DEBUG_LOCKS_WARN_ON, …) needs no
row of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import islice

from pytest_kernelvm.vm.klog.splat_kinds import Certainty, SplatRow
from pytest_kernelvm.vm.klog.splat_rows_detectors import DETECTORS
from pytest_kernelvm.vm.klog.splat_rows_faults import FAULTS

# The first that fits decides.
ROWS = (*DETECTORS, *FAULTS)


def _hints() -> str:
    """Return a pattern of all hints, by their first character so that few are tried anywhere.

    No hint begins with a small letter, as those are everywhere in text.
    """
    by_first: dict[str, list[str]] = {}
    for hint in sorted({hint for row in ROWS for hint in row.hints}):
        by_first.setdefault(hint[0], []).append(re.escape(hint[1:]))
    return "|".join(
        f"{re.escape(first)}(?:{'|'.join(rest)})" for first, rest in sorted(by_first.items())
    )


# What the title line of a panic holds.
PANIC_HINT = re.compile("|".join(re.escape(h) for r in ROWS if r.kind == "panic" for h in r.hints))

# What any of the title lines holds: to pass over text without looking at each of its lines.
HINT = re.compile(_hints())


def _by_hint(certainties: Iterable[Certainty]) -> dict[str, re.Pattern[str]]:
    """Return for each hint the alternatives of its rows, as groups named r0, r1, …."""
    chosen = set(certainties)
    return {
        hint: re.compile(
            "|".join(
                f"(?P<r{at}>{row.pattern})"
                for at, row in enumerate(ROWS)
                if hint in row.hints and row.certainty in chosen
            )
            or r"(?!)"
        )
        for hint in {hint for row in ROWS for hint in row.hints}
    }


_ALL_BY_HINT = _by_hint(Certainty)
_ANYWHERE_BY_HINT = _by_hint([Certainty.ANYWHERE])
# How far before its hint a title line may begin that is believed anywhere, and how many hints of
# a line are looked at.
_BEFORE_HINT = 48
_MOST_HINTS = 16


def row_of(words: str) -> SplatRow | None:
    """Return the row that a line matches, None if it is no title line.

    Args:
        words: The line without its time.
    """
    if not HINT.search(words):
        return None
    hints = {hint[0] for hint in islice(HINT.finditer(words), _MOST_HINTS)}
    found = [match for hint in hints if (match := _ALL_BY_HINT[hint].fullmatch(words))]
    return ROWS[min(_row_number(match) for match in found)] if found else None


def kind_of(words: str) -> str:
    """Return the kind of splat that a line begins, empty if it begins none.

    Args:
        words: The line without its time.
    """
    row = row_of(words)
    return row.kind if row else ""


def title_anywhere(text: str) -> tuple[int, SplatRow] | None:
    """Return where on a line a title begins that only a kernel prints, and its row.

    Args:
        text: The line, which may begin with what a program left unfinished.

    Returns:
        The offset and the row, None if there is no such title.
    """
    for hint in islice(HINT.finditer(text), _MOST_HINTS):
        for begin in range(max(0, hint.start() - _BEFORE_HINT), hint.start() + 1):
            match = _ANYWHERE_BY_HINT[hint[0]].match(text, begin)
            if match:
                return begin, ROWS[_row_number(match)]
    return None


def _row_number(match: re.Match[str]) -> int:
    assert match.lastgroup
    return int(match.lastgroup[1:])
