"""A project of its own, with a store of its own, whose tests are run by a pytest of their own."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_kernelvm import Cell
from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.errors import ToolMissing
from pytest_kernelvm.kernel.build.configure import open_kconfig_session
from pytest_kernelvm.kernel.source.source import locate, unpacked
from pytest_kernelvm.process import Completed, run
from pytest_kernelvm.store.store import Store

# What a store has of its own; the rest need not be made again. Snapshots are linked into bundles.
OWN_KINDS = ("snapshots", "failures", "logs", "tmp", "uses")
TIMEOUT_S = 240.0
KERNELVM = "import sys; from pytest_kernelvm.cli.main import main; sys.exit(main())"


def pytest_argv(cell: Cell, directory: Path, *arguments: str) -> list[str]:
    """Return the command of a run of one cell's tests that keeps what it writes in a directory."""
    store = own_store(directory, cell)
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    argv += [f"--kernelvm-configs={cell.config.file.parent}"]
    argv += [f"--kernelvm-config={cell.config.id}", f"--kernelvm-store={store}"]
    return [*argv, f"--basetemp={directory / 'base'}", *arguments]


@dataclass(frozen=True, kw_only=True)
class Project:
    """A directory with tests of one cell. store: its store, which has the cell's kernel."""

    directory: Path
    cell: Cell
    store: Path

    def pytest(self, *arguments: str, timeout_s: float = TIMEOUT_S) -> Completed:
        """Run its tests."""
        argv = pytest_argv(self.cell, self.directory, *arguments, "test_it.py")
        return run(argv, cwd=self.directory, timeout_s=timeout_s, check=False)

    def kernelvm(self, *arguments: str, store: Path | None = None, stdin: str = "") -> Completed:
        """Give the command, by default on the project's store."""
        argv = [sys.executable, "-c", KERNELVM, "--store", str(store or self.store)]
        argv += ["--configs", str(self.cell.config.file.parent), *arguments]
        return run(argv, cwd=self.directory, stdin=stdin.encode(), timeout_s=TIMEOUT_S, check=False)

    def left(self) -> list[str]:
        """Return the names of what failed tests left, oldest first."""
        listed = self.kernelvm("kept").stdout
        return [line.split()[0] for line in listed.splitlines()]


def make_project(directory: Path, cell: Cell, tests: str) -> Project:
    """Make a project with one file of tests."""
    (directory / "test_it.py").write_text(tests)
    (directory / "pytest.ini").write_text("[pytest]\n")
    return Project(directory=directory, cell=cell, store=own_store(directory, cell))


def unpacked_source(store: Store, config: CellConfig) -> Path:
    """Return a config's source, without patches; skips where it is missing."""
    try:
        return unpacked(store, locate(store, config.kernel.source))
    except ToolMissing as error:
        pytest.skip(error.summary)


def store_of_sources(directory: Path, shared: Store, cells: Iterable[CellConfig]) -> Path:
    """Return a new store in a directory that has what cells are configured with, and no more.

    shared: the store that gets all of it, if it does not have it. Skips where a source is missing.
    """
    try:
        for cell in cells:
            with open_kconfig_session(shared, cell):
                pass
    except ToolMissing as error:
        pytest.skip(error.summary)
    store = directory / "store"
    store.mkdir()
    for kind in ("sources", "conf"):
        (store / kind).symlink_to(shared.root / kind)
    return store


def own_store(directory: Path, cell: Cell) -> Path:
    """Return a directory's store: it has the cell's kernel and keeps what tests leave.

    It is made with the first call.
    """
    store = directory / "store"
    if store.exists():
        return store
    assert cell.kernel
    assert cell.programs
    store.mkdir()
    for kind in cell.store.root.iterdir():
        if kind.name not in OWN_KINDS:
            (store / kind.name).symlink_to(kind)
    return store
