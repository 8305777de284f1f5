"""Results of tests that the kernel runs itself, as its log tells them.

The format is KTAP (Documentation/dev-tools/ktap.rst), as KUnit prints it: plans, results, tests
within tests, directives. Kernels before 6.3 print no version line for a suite, and those before 6.6
none for the whole of what a module brings.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

TAB = 4
# What a test said before it failed, at most so many lines of it.
MOST_SAID = 8

# What printk puts in front of a line of the console: level, time, caller (kernel/printk/printk.c).
_TIME = re.compile(r"(?:<\d+>)?(?:\[ *\d+\.\d+\](?: *\[ *[TC]\d+\])? ?)?")
_VERSION = re.compile(r"(?P<prefix>.*?)(?P<indent> *)K?TAP version \d+")
_SUBTEST = re.compile(r"# Subtest: (?P<name>.+)")
_PLAN = re.compile(r"1\.\.(?P<plan>\d{1,9})(?P<skipped> *# *SKIP\b.*)?", re.IGNORECASE)
_RESULT = re.compile(
    r"(?P<result>ok|not ok) +\d+(?: +-)?(?: +(?P<name>.*?))?"
    r"(?: *# *(?P<directive>(?i:SKIP|TODO|XFAIL|TIMEOUT|ERROR))\b.*)?"
)
_FAILED = re.compile(r" *not ok \d")
# `not ok` means nothing bad with these.
_EXPECTED = ("TODO", "XFAIL")
# `ok` means nothing good with these.
_BAD = ("TIMEOUT", "ERROR")


@dataclass(frozen=True, kw_only=True, slots=True)
class TestResults:
    """What became of the tests in a log.

    passed, failed, skipped: how many, tests with tests within them not counted.
    problems: the lines that tell of failures, with what those tests had said before; and, in our
    words, what is missing.
    """

    passed: int
    failed: int
    skipped: int
    problems: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.passed} passed"]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.skipped} skipped"] if self.skipped else []
        return f"tests: {', '.join(parts)}"


@dataclass(kw_only=True, slots=True)
class _Block:
    """Tests that belong together, as they stand in one column.

    name: of the test that they are within, empty where nothing said it. plan: how many there are
    to be, None where nothing said it. outermost: whether they are within no other test.
    """

    outermost: bool
    name: str = ""
    plan: int | None = None
    results: int = 0
    skipped: bool = False


def read_results(lines: Iterable[str]) -> TestResults | None:
    """Return the results in the lines of a kernel's log; None if there are none.

    lines: without their times. Other text between them does no harm.
    """
    reader = _Reader()
    for line in lines:
        reader.take(line.expandtabs(TAB))
    return reader.end()


def without_time(line: str) -> str:
    """Return a line of the console as the kernel's log has it."""
    return _TIME.sub("", line, count=1)


@dataclass(kw_only=True, slots=True)
class _Reader:
    prefix: str = ""
    blocks: dict[int, _Block] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("ok", "bad", "skip"), 0))
    problems: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    has_begun: bool = False

    def take(self, line: str) -> None:
        version = _VERSION.fullmatch(line.rstrip())
        # In a comment it is somebody else's results that are told.
        if version and not version["prefix"].startswith("#"):
            # A space behind words in front belongs to them: `mine: ok 1`.
            apart = version["indent"][: 1 if version["prefix"] else 0]
            self.prefix = version["prefix"] + apart
            self._open(len(version["indent"]) - len(apart))
            return
        if self.prefix and not line.startswith(self.prefix):
            if not _SUBTEST.fullmatch(line.strip()) and not _FAILED.match(line):
                return
            self._close(0)
            self.prefix = ""
        text = line[len(self.prefix) :].rstrip()
        words = text.lstrip(" ")
        column = len(text) - len(words)
        if subtest := _SUBTEST.fullmatch(words):
            self._name(column, subtest["name"])
        elif not self.has_begun and not _FAILED.match(text):
            return
        elif (plan := _PLAN.fullmatch(words)) and column in self.blocks:
            self.blocks[column].plan = int(plan["plan"])
            self.blocks[column].skipped = bool(plan["skipped"])
        elif result := _RESULT.fullmatch(words):
            self._result(column, result, text)
        else:
            self.said = [*self.said, text][-MOST_SAID:]

    def _open(self, column: int) -> None:
        """Begin tests in a column; what was there, or further right, is over."""
        self._close(column)
        self.blocks[column] = _Block(outermost=not self.blocks)
        self.has_begun = True
        self.said = []

    def _name(self, column: int, name: str) -> None:
        block = self.blocks.get(column)
        if not block or block.name or block.results or block.plan is not None:
            self._open(column)
        self.blocks[column].name = name

    def _result(self, column: int, found: re.Match[str], line: str) -> None:
        within = min((each for each in self.blocks if each > column), default=None)
        expected = self.blocks[within].name if within is not None else None
        is_known = column in self.blocks or expected in ("", found["name"])
        if not is_known and found["result"] == "ok":
            # Some other text of the kernel's. Who says `not ok` is believed.
            self.said = [*self.said, line][-MOST_SAID:]
            return
        self.has_begun = True
        inner = self.blocks.pop(within) if within is not None else None
        self._close(column + 1)
        directive = (found["directive"] or "").upper()
        if inner:
            self._check(inner, found["name"] or inner.name, is_skipped=directive == "SKIP")
        self.blocks.setdefault(column, _Block(outermost=not self.blocks)).results += 1
        bad = found["result"] != "ok" and directive not in _EXPECTED
        bad = bad or directive in _BAD
        kind = "skip" if directive == "SKIP" else "bad" if bad else "ok"
        if not inner or not inner.results:
            self.counts[kind] += 1
        if kind == "bad":
            self.problems += [*(() if inner else self.said), line]
        self.said = []

    def _close(self, column: int) -> None:
        """End the tests of a column, and those further right, of which no result came.

        Of the outermost none is to come, unless they are indented and have a name.
        """
        for each in sorted(self.blocks, reverse=True):
            if each < column:
                continue
            block = self.blocks.pop(each)
            if block.outermost and not (each and block.name):
                if block.results or block.plan is not None:
                    self._check(block, block.name, is_skipped=False)
            else:
                self.problems.append(f"{_named(block)} did not end: {_counted(block)}")
                self.problems += self.said
                self.said = []

    def _check(self, block: _Block, name: str, *, is_skipped: bool) -> None:
        """Note that there are fewer or more results than were planned, or none."""
        block.name = block.name or name
        missing = block.plan is not None and block.results != block.plan
        if missing or not (block.results or block.skipped or is_skipped):
            self.problems.append(f"{_named(block)}: {_counted(block)}")

    def end(self) -> TestResults | None:
        self._close(0)
        if not self.has_begun:
            return None
        return TestResults(
            passed=self.counts["ok"],
            failed=self.counts["bad"],
            skipped=self.counts["skip"],
            problems=tuple(self.problems),
        )


def _named(block: _Block) -> str:
    return f"the tests of {block.name}" if block.name else "the tests"


def _counted(block: _Block) -> str:
    if not block.plan:
        return f"{block.results or 'no'} results"
    return f"{block.results} results of {block.plan}"


def first_lines(results: TestResults, most: int) -> Sequence[str]:
    """Return what went wrong in at most so many lines, the last of them how many more there are."""
    if len(results.problems) <= most:
        return results.problems
    return (*results.problems[: most - 1], f"… {len(results.problems) - most + 1} more lines")
