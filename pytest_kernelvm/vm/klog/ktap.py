"""Results of tests that the kernel runs itself, as its log shows them.

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
MOST_OUTPUT = 8

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

    Tests that have tests within them are not counted.

    Attributes:
        passed: How many tests passed.
        failed: How many failed.
        skipped: How many were skipped.
        problems: The lines that report failures, with what those tests had printed before; and, in
            our words, what is missing.
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

    Other text between them does no harm.

    Args:
        lines: Without their times.
    """
    reader = _Reader()
    for line in lines:
        reader.read(line.expandtabs(TAB))
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
    output: list[str] = field(default_factory=list)
    has_begun: bool = False

    def read(self, line: str) -> None:
        version = _VERSION.fullmatch(line.rstrip())
        # In a comment it is the version line of somebody else's results.
        if version and not version["prefix"].startswith("#"):
            self._begin_version(version)
        elif self._may_be_of_tests(line):
            self._read_after_prefix(line[len(self.prefix) :].rstrip())

    def _begin_version(self, version: re.Match[str]) -> None:
        # A space behind words in front belongs to them: `mine: ok 1`.
        apart = version["indent"][: 1 if version["prefix"] else 0]
        self.prefix = version["prefix"] + apart
        self._open(len(version["indent"]) - len(apart))

    def _may_be_of_tests(self, line: str) -> bool:
        """Whether a line has the prefix of the tests, or begins others that have none."""
        if not self.prefix or line.startswith(self.prefix):
            return True
        if not _SUBTEST.fullmatch(line.strip()) and not _FAILED.match(line):
            return False
        self._close(0)
        self.prefix = ""
        return True

    def _read_after_prefix(self, text: str) -> None:
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
            self._note_output(text)

    def _note_output(self, text: str) -> None:
        self.output = [*self.output, text][-MOST_OUTPUT:]

    def _open(self, column: int) -> None:
        """Begin tests in a column; what was there, or further right, is over."""
        self._close(column)
        self.blocks[column] = _Block(outermost=not self.blocks)
        self.has_begun = True
        self.output = []

    def _name(self, column: int, name: str) -> None:
        block = self.blocks.get(column)
        if not block or block.name or block.results or block.plan is not None:
            self._open(column)
        self.blocks[column].name = name

    def _result(self, column: int, found: re.Match[str], line: str) -> None:
        within = min((each for each in self.blocks if each > column), default=None)
        if found["result"] == "ok" and not self._is_expected(column, within, found["name"]):
            # Some other text of the kernel's. Who says `not ok` is believed.
            self._note_output(line)
            return
        self.has_begun = True
        inner = self.blocks.pop(within) if within is not None else None
        self._close(column + 1)
        outcome = _outcome(found)
        if inner:
            self._check(inner, found["name"] or inner.name, is_skipped=outcome == "skip")
        self.blocks.setdefault(column, _Block(outermost=not self.blocks)).results += 1
        if not inner or not inner.results:
            self.counts[outcome] += 1
        if outcome == "bad":
            self.problems += [*(() if inner else self.output), line]
        self.output = []

    def _is_expected(self, column: int, within: int | None, name: str | None) -> bool:
        """Return whether a result in a column is of a test that was begun.

        Args:
            column: Of the result.
            within: The column of the tests within it, None if there are none.
            name: The result's name.
        """
        begun = self.blocks[within].name if within is not None else None
        return column in self.blocks or begun in ("", name)

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
                self.problems += self.output
                self.output = []

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


def _outcome(result: re.Match[str]) -> str:
    """Return which of the counts a result belongs to: `ok`, `bad` or `skip`."""
    directive = (result["directive"] or "").upper()
    if directive == "SKIP":
        return "skip"
    if directive in _BAD or (result["result"] != "ok" and directive not in _EXPECTED):
        return "bad"
    return "ok"


def _named(block: _Block) -> str:
    return f"the tests of {block.name}" if block.name else "the tests"


def _counted(block: _Block) -> str:
    if not block.plan:
        return f"{block.results or 'no'} results"
    return f"{block.results} results of {block.plan}"


def first_lines(results: TestResults, most: int) -> Sequence[str]:
    """Return what went wrong in few lines.

    Args:
        results: The results.
        most: How many lines at most. If there are more, the last one says how many.

    Returns:
        The lines.
    """
    if len(results.problems) <= most:
        return results.problems
    return (*results.problems[: most - 1], f"… {len(results.problems) - most + 1} more lines")
