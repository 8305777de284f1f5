"""Results of tests in the kernel's log: as kernels print them, cut off, and between other text."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pytest_kernelvm.vm.klog.ktap import first_lines, read_results, without_time


@dataclass(frozen=True, kw_only=True)
class Log:
    """counts: passed, failed, skipped. problems: of the report; None where there are no tests."""

    name: str
    text: str
    counts: tuple[int, int, int] = (0, 0, 0)
    problems: tuple[str, ...] | None = ()


LOGS = [
    Log(
        name="6.12, a suite of a module",
        text="""\
KTAP version 1
1..1
    KTAP version 1
    # Subtest: example
    # module: kunit_example_test
    1..3
    # example_simple_test: initializing
    ok 1 example_simple_test
    ok 2 example_skip_test # SKIP this test should be skipped
    ok 3 example_mark_skipped_test # SKIP
# example: pass:1 fail:0 skip:2 total:3
# Totals: pass:1 fail:0 skip:2 total:3
ok 1 example
""",
        counts=(1, 0, 2),
    ),
    Log(
        name="6.1, a suite without any version line",
        text="""\
    # Subtest: example
    1..2
    ok 1 - first
    ok 2 - second
# example: pass:2 fail:0 skip:0 total:2
ok 1 - example
""",
        counts=(2, 0, 0),
    ),
    Log(
        name="a test fails, with what it said",
        text="""\
KTAP version 1
1..1
    KTAP version 1
    # Subtest: sums
    1..2
    ok 1 fine
    # wrong: EXPECTATION FAILED at sums.c:7
    Expected 1 + 1 == 3, but
        1 + 1 == 2 (0x2)
    not ok 2 wrong
not ok 1 sums
""",
        counts=(1, 1, 0),
        problems=(
            "    # wrong: EXPECTATION FAILED at sums.c:7",
            "    Expected 1 + 1 == 3, but",
            "        1 + 1 == 2 (0x2)",
            "    not ok 2 wrong",
            "not ok 1 sums",
        ),
    ),
    Log(
        name="a suite says ok though a test within it failed",
        text="""\
KTAP version 1
1..1
    # Subtest: sums
    1..1
        KTAP version 1
        # Subtest: each
        1..2
        not ok 1 zero
        ok 2 one
    ok 1 each
ok 1 sums
""",
        counts=(1, 1, 0),
        problems=("        not ok 1 zero",),
    ),
    Log(
        name="parameters without a plan",
        text="""\
KTAP version 1
1..1
    KTAP version 1
    # Subtest: sums
    1..1
        KTAP version 1
        # Subtest: each
        ok 1 zero
        ok 2 one #2
    # each: pass:2 fail:0 skip:0 total:2
    ok 1 each
ok 1 sums
""",
        counts=(2, 0, 0),
    ),
    Log(
        name="fewer results than planned",
        text="""\
KTAP version 1
1..1
    # Subtest: sums
    1..3
    ok 1 a
    ok 2 b
ok 1 sums
""",
        counts=(2, 0, 0),
        problems=("the tests of sums: 2 results of 3",),
    ),
    Log(
        name="more results than planned",
        text="""\
KTAP version 1
1..1
    # Subtest: sums
    1..1
    ok 1 a
    ok 2 b
ok 1 sums
""",
        counts=(2, 0, 0),
        problems=("the tests of sums: 2 results of 1",),
    ),
    Log(
        name="fewer suites than planned",
        text="KTAP version 1\n1..2\n    # Subtest: a\n    1..1\n    ok 1 x\nok 1 a\n",
        counts=(1, 0, 0),
        problems=("the tests: 1 results of 2",),
    ),
    Log(
        name="a suite that never ends",
        text="""\
KTAP version 1
1..1
    KTAP version 1
    # Subtest: sums
    1..3
    ok 1 a
    # b: waiting for ever
""",
        counts=(1, 0, 0),
        problems=(
            "the tests of sums did not end: 1 results of 3",
            "    # b: waiting for ever",
            "the tests: 0 results of 1",
        ),
    ),
    Log(
        name="all results and no word that the suite is over",
        text="    # Subtest: sums\n    1..1\n    ok 1 a\n",
        counts=(1, 0, 0),
        problems=("the tests of sums did not end: 1 results of 1",),
    ),
    Log(
        name="parameters that never end",
        text="""\
    # Subtest: sums
    1..2
        # Subtest: each
        ok 1 zero
""",
        counts=(1, 0, 0),
        problems=(
            "the tests of each did not end: 1 results",
            "the tests of sums did not end: 0 results of 2",
        ),
    ),
    Log(
        name="a module's suite is cut off by the next module's",
        text="""\
KTAP version 1
1..1
    # Subtest: first
    1..2
    ok 1 a
KTAP version 1
1..1
    # Subtest: second
    1..1
    ok 1 b
ok 1 second
""",
        counts=(2, 0, 0),
        problems=("the tests of first did not end: 1 results of 2", "the tests: 0 results of 1"),
    ),
    Log(
        name="two modules without version lines",
        text="""\
    # Subtest: first
    1..1
    ok 1 - a
ok 1 - first
    # Subtest: second
    1..1
    not ok 1 - b
not ok 2 - second
""",
        counts=(1, 1, 0),
        problems=("    not ok 1 - b", "not ok 2 - second"),
    ),
    Log(
        name="skipped as a whole",
        text="KTAP version 1\n1..1\n    # Subtest: a\n    1..0 # SKIP no device\nok 1 a # SKIP\n",
        counts=(0, 0, 1),
    ),
    Log(
        name="a skipped one that says not ok",
        text="KTAP version 1\n1..2\nnot ok 1 a # skip no device\nok 2 b\n",
        counts=(1, 0, 1),
    ),
    Log(
        name="directives that expect a failure, and others that are one",
        text="""\
KTAP version 1
1..4
not ok 1 a # TODO later
not ok 2 b # XFAIL known
ok 3 c # TIMEOUT 45 seconds
not ok 4 d # ERROR no memory
""",
        counts=(2, 2, 0),
        problems=("ok 3 c # TIMEOUT 45 seconds", "not ok 4 d # ERROR no memory"),
    ),
    Log(
        name="no test at all",
        text="KTAP version 1\n1..0\n",
        problems=("the tests: no results",),
    ),
    Log(
        name="a suite without tests",
        text="KTAP version 1\n1..1\n    # Subtest: empty\n    1..0\nok 1 empty\n",
        counts=(1, 0, 0),
        problems=("the tests of empty: no results",),
    ),
    Log(
        name="a module's own words in front of each line",
        text="""\
mine: KTAP version 1
mine: 1..2
eth0: link is up
mine: ok 1 a
ok 7 of somebody else
mine: not ok 2 b
""",
        counts=(1, 1, 0),
        problems=("not ok 2 b",),
    ),
    Log(
        name="words in front in one module, none in the next",
        text="""\
mine: KTAP version 1
mine: 1..1
mine: ok 1 a
    # Subtest: next
    1..2
    ok 1 - x
    not ok 2 - y
not ok 1 - next
""",
        counts=(2, 1, 0),
        problems=("    not ok 2 - y", "not ok 1 - next"),
    ),
    Log(
        name="results without anything that says so",
        text="hello: 1\nok 1 a\nnot ok 2 b\n",
        counts=(0, 1, 0),
        problems=("not ok 2 b",),
    ),
    Log(
        name="a suite's result under another name",
        text="    # Subtest: a\n    1..1\n    ok 1 x\nnot ok 1 - other\n",
        counts=(1, 0, 0),
        problems=("not ok 1 - other",),
    ),
    Log(
        name="names with a number sign are no directives",
        text="KTAP version 1\n1..2\nok 1 a #1 of 2\nnot ok 2 b #SKIPPED\n",
        counts=(1, 1, 0),
        problems=("not ok 2 b #SKIPPED",),
    ),
    Log(
        name="tabs and hyphens, as 5.4 printed them",
        text="TAP version 14\n\t# Subtest: a\n\t1..1\n\tok 1 - x\nok 1 - a\n",
        counts=(1, 0, 0),
    ),
    Log(
        name="text of the kernel's between results",
        text="""\
KTAP version 1
1..1
    # Subtest: a
    1..2
    ok 1 x
random: crng init done
 ok so this is no result
not okay either
    ok 2 y
ok 1 a
""",
        counts=(2, 0, 0),
    ),
    Log(name="no tests", text="hello: 1\nok 1 that was that\nnot ok\n1..3\n", problems=None),
    Log(
        name="a result of something else's where the suite's is due",
        text="    # Subtest: a\n    1..1\n    ok 1 x\nok 7 sectors\nok 1 - a\n",
        counts=(1, 0, 0),
    ),
    Log(name="nothing", text="", problems=None),
]


@pytest.mark.parametrize("log", LOGS, ids=lambda log: log.name)
def test_results(log: Log) -> None:
    results = read_results(log.text.splitlines())
    if log.problems is None:
        assert results is None
        return
    assert results is not None
    assert (results.passed, results.failed, results.skipped) == log.counts
    assert results.problems == log.problems


def test_a_log_may_end_anywhere() -> None:
    """Whatever a passing log lacks at its end is reported, until its last result is there."""
    lines = LOGS[0].text.splitlines()
    last = max(number for number, line in enumerate(lines) if line == "ok 1 example")
    for end in range(1, last):
        results = read_results(lines[:end])
        if results is not None and end > 1:
            assert results.problems, lines[:end]
    whole = read_results(lines)
    assert whole is not None
    assert whole.problems == ()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("[    1.234567]     ok 1 a", "    ok 1 a"),
        ("<6>[    1.234567][    T1] KTAP version 1", "KTAP version 1"),
        ("[   1.2] [T1]     ok 1 a", "    ok 1 a"),
        ("    ok 1 a", "    ok 1 a"),
    ],
)
def test_times_of_the_console_are_removed(line: str, expected: str) -> None:
    assert without_time(line) == expected


def test_an_error_fits_one_screen() -> None:
    text = "KTAP version 1\n1..90\n" + "".join(f"not ok {number} x\n" for number in range(90))
    results = read_results(text.splitlines())
    assert results is not None
    lines = first_lines(results, 20)
    assert len(lines) == 20
    assert lines[-1] == "… 71 more lines"
    assert str(results) == "tests: 0 passed, 90 failed"
