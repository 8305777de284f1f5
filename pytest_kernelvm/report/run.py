"""The report of a run with guests: a header that says with what it tests, and a summary."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import pytest

from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.errors import KernelvmError
from pytest_kernelvm.report.printable_report import make_printable
from pytest_kernelvm.session.guests import GuestCounts
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.toolchain.compiler import compiler_version
from pytest_kernelvm.vm.qemu.snapshot import qemu_version

T = TypeVar("T")

# What QEMU uses, as its command line names no accelerator.
ACCELERATOR = "tcg"
WORKER_KEY = "kernelvm"
# The attribute of a report that names the cell.
CELL = "kernelvm_cell"
MOST_CELLS, MOST_BUNDLES = 3, 4


def header(configs: Sequence[CellConfig], store: Path) -> list[str]:
    """Return the lines that say with what some cells are tested; nothing is built.

    Args:
        configs: The cells.
        store: The directory of the store.

    Returns:
        The cells, the versions of QEMU and the compilers, and the store.
    """
    arches = {config.arch.name: config.arch for config in configs}.values()
    qemus = {_version(qemu_version, arch.qemu_binary, arch.qemu_binary) for arch in arches}
    compilers = collections.defaultdict(list)
    for arch in arches:
        compiler = f"{arch.toolchain_prefix}gcc"
        compilers[_version(compiler_version, arch, compiler)].append(compiler)
    versions = (f"{', '.join(names)} {version}" for version, names in compilers.items())
    return [
        f"kernelvm: {', '.join(config.id for config in configs)}",
        f"kernelvm: QEMU {', '.join(sorted(qemus))} with {ACCELERATOR}; {'; '.join(versions)}",
        f"kernelvm: store {store}",
    ]


def _version(ask: Callable[[T], str], what: T, program: str) -> str:
    """Return the number in what a program prints as its version."""
    try:
        words = ask(what)
    except KernelvmError:
        return f"({program} is not installed)"
    numbers = re.findall(r"\d+(?:\.\d+)+", words.partition(";")[0])
    return numbers[0] if numbers else words


@dataclass(kw_only=True, slots=True)
class Tally:
    """What was done in a run, or by one of its workers.

    Attributes:
        guests: The numbers of GuestCounts by their names.
        found: How many entries of each kind were in the store already.
        made: How many entries of each kind were made.
        bundles: The names of the bundles of failed tests.
        casts: The files of recordings.
    """

    guests: dict[str, int] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)
    bundles: list[str] = field(default_factory=list)
    casts: list[str] = field(default_factory=list)

    def add(self, other: Mapping[str, Any]) -> None:
        """Add what another worker did.

        Args:
            other: Its tally, as `dataclasses.asdict` returns it.
        """
        for each in fields(self):
            mine, theirs = getattr(self, each.name), other[each.name]
            if isinstance(mine, list):
                mine += theirs
                continue
            for name, count in theirs.items():
                mine[name] = mine.get(name, 0) + count

    def note_bundle(self, name: str) -> None:
        """Note the bundle of a failed test, once."""
        if name not in self.bundles:
            self.bundles.append(name)

    def add_guests(self, counts: GuestCounts, store: Store) -> None:
        """Add what this process did for its tests.

        Args:
            counts: What its guests' pool did.
            store: The store that it used.
        """
        found, made = (
            dict(collections.Counter(kind for kind, _digest in entries))
            for entries in (store.found - store.made, store.made)
        )
        self.add(
            {"guests": asdict(counts), "found": found, "made": made, "bundles": [], "casts": []}
        )


def note_cell(report: pytest.TestReport, config: CellConfig) -> None:
    """Note on a test's report which cell it ran on; xdist transfers the note with the report.

    Args:
        report: The report.
        config: The cell.
    """
    setattr(report, CELL, config.id)


class RunReport:
    """The pytest plugin that reports; it is registered once there is a test with a guest.

    Attributes:
        tally: What was done so far.
    """

    def __init__(self, config: pytest.Config, clear_line: Callable[[], None]) -> None:
        """Begin with an empty tally.

        Args:
            config: pytest's configuration.
            clear_line: Erases progress from the line of the terminal that pytest writes on next.
        """
        self._config = config
        self._clear_line = clear_line
        self._seconds: dict[str, list[float]] = collections.defaultdict(lambda: [0.0, 0])
        self.tally = Tally()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up what the tests of each cell take."""
        self._clear_line()
        cell = getattr(report, CELL, None)
        if cell:
            sums = self._seconds[cell]
            sums[0] += report.duration
            sums[1] += report.when == "call"

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Make what guests wrote safe for a terminal."""
        report = yield
        if item.get_closest_marker("vm"):
            error = call.excinfo.value if call.excinfo else None
            coloured = item.config.get_terminal_writer().hasmarkup
            make_printable(report, error, coloured=coloured)
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self) -> None:
        """Send what this worker did to the process that distributes the tests."""
        output = getattr(self._config, "workeroutput", None)
        if output is not None:
            output[WORKER_KEY] = asdict(self.tally)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Add what a worker did; one that crashed has not sent it."""
        tally = getattr(node, "workeroutput", {}).get(WORKER_KEY)
        if tally:
            self.tally.add(tally)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print what was done."""
        lines = summary(self.tally, {name: tuple(s) for name, s in self._seconds.items()})
        if lines and terminalreporter.verbosity >= 0:
            terminalreporter.write_sep("-", "kernelvm")
            for line in lines:
                terminalreporter.write_line(line)


def summary(tally: Tally, seconds: Mapping[str, Sequence[float]]) -> list[str]:
    """Return the lines that say what was done.

    Args:
        tally: What was done.
        seconds: For each cell, the seconds that its tests took, and their number.

    Returns:
        The lines; none if there is nothing to say.
    """
    lines = []
    counts = GuestCounts(**tally.guests) if tally.guests else GuestCounts()
    guests = [
        f"{counts.restored} restored" + (f" ({counts.waiting} ahead)" if counts.waiting else ""),
        f"{counts.booted} booted",
        f"{counts.snapshots_made} snapshots made",
    ]
    if counts.restored or counts.booted:
        lines.append(f"guests:  {', '.join(guests)}")
    stored = [
        f"{kind} {_found_and_made(tally.found.get(kind, 0), tally.made.get(kind, 0))}"
        for kind in sorted(tally.found.keys() | tally.made.keys())
    ]
    if stored:
        lines.append(f"store:   {'; '.join(stored)}")
    slowest = sorted(seconds.items(), key=lambda pair: -pair[1][0])
    if slowest:
        shown = [f"{name} {took:.1f} s in {_tests(count)}" for name, (took, count) in slowest]
        lines.append(f"slowest: {_first(shown, MOST_CELLS)}")
    if tally.casts:
        lines.append(f"casts:   {len(tally.casts)} recorded; asciinema play {tally.casts[0]}")
    if tally.bundles:
        lines.append(f"left:    {_first(tally.bundles, MOST_BUNDLES)}; `kernelvm kept` lists them")
    return lines


def _found_and_made(found: int, made: int) -> str:
    return ", ".join(
        f"{count} {what}" for count, what in ((found, "found"), (made, "made")) if count
    )


def _tests(count: float) -> str:
    return f"{count:.0f} test{'' if count == 1 else 's'}"


def _first(words: Sequence[str], most: int) -> str:
    rest = len(words) - most
    return ", ".join([*words[:most], *([f"{rest} more"] if rest > 0 else [])])
