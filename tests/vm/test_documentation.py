"""The tutorial, the how-tos and the README, followed step by step; their examples, run as tests."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from pytest_kernelvm import Cell
from pytest_kernelvm.config.select import select_cells
from pytest_kernelvm.process import Completed, run
from pytest_kernelvm.store.store import Store
from tests.documentation import COMMANDS, FOLLOWED, PAGES, ROOT, TUTORIAL, Block, blocks, steps
from tests.vm.project import own_store, pytest_argv

pytestmark = [pytest.mark.vm, pytest.mark.slow]

# The cell that the pages name.
CELL = "malta-6.12"
TIMEOUT_S = 300.0
# The shell's directory is taken over from step to step; a step may end with any status.
STEP = """\
cd "$DIRECTORY"
trap 'status=$?; pwd >"$DIRECTORY_FILE"; exit $status' EXIT
exec 2>&1
set -eu
"""


@pytest.fixture
def cell(kernelvm_store: Store) -> Cell:
    (config,) = select_cells(ROOT / "vm-configs", names=[CELL])
    return Cell(config, kernelvm_store)


class Reader:
    """Follows a page in a home directory that has the checkout and a project, and nothing else.

    The project has our vm-configs, as the tutorial says. The tutorial itself begins at home.
    """

    def __init__(self, directory: Path, cell: Cell, *, at_home: bool) -> None:
        self._home = directory / "home"
        project = self._home / "project"
        project.mkdir(parents=True)
        (self._home / "pytest-kernelvm").symlink_to(ROOT)
        shutil.copytree(ROOT / "vm-configs", project / "vm-configs")
        self._here = self._home if at_home else project
        self._pwd = directory / "pwd"
        self._store = own_store(directory, cell)

    def write(self, block: Block) -> None:
        """Write the file that a block shows."""
        file = self._here / block.title
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.text)

    def type(self, command: str) -> Completed:
        """Run a command where the one before it has left the shell."""
        env = {
            "HOME": str(self._home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "KERNELVM_STORE": str(self._store),
            "PYTEST_ADDOPTS": "",
            "COLUMNS": "80",
            "DIRECTORY": str(self._here),
            "DIRECTORY_FILE": str(self._pwd),
        }
        argv = ["bash", "-c", STEP + command]
        done = run(argv, env=env, timeout_s=TIMEOUT_S, check=False)
        self._here = Path(self._pwd.read_text().strip())
        return done


def followed(page: Path) -> list[Block]:
    """Return the blocks of a page that its reader types or writes."""
    return [
        block
        for block in blocks(page.read_text())
        if not block.reason and (block.title or block.language in COMMANDS)
    ]


def examples(page: Path) -> list[Block]:
    """Return the blocks of a page that are tests by themselves."""
    return [
        block
        for block in blocks(page.read_text())
        if block.language == "python" and not block.title and not block.reason
    ]


@pytest.mark.parametrize(
    "page", [page for page in FOLLOWED if followed(page)], ids=lambda page: page.stem
)
def test_a_page_can_be_followed(page: Path, cell: Cell, tmp_path: Path) -> None:
    reader = Reader(tmp_path, cell, at_home=page == TUTORIAL)
    for block in followed(page):
        if block.title:
            reader.write(block)
            continue
        for step in steps(block):
            done = reader.type(step.command)
            where = f"{page.name}:{block.line}: {step.command}\n{done.stdout}"
            assert done.status == step.status, where
            as_shown = not step.printed or bool(re.fullmatch(step.printed, done.stdout))
            assert as_shown, where


@pytest.mark.parametrize(
    "page", [page for page in PAGES if examples(page)], ids=lambda page: page.stem
)
def test_the_examples_of_a_page_are_tests_that_pass(page: Path, cell: Cell, tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    names = [f"test_line_{block.line}" for block in examples(page)]
    for name, block in zip(names, examples(page), strict=True):
        (tmp_path / f"{name}.py").write_text(block.text)
    files = [f"{name}.py" for name in names]
    argv = [*pytest_argv(cell, tmp_path, *files), "--junitxml=report.xml"]
    done = run(argv, cwd=tmp_path, timeout_s=TIMEOUT_S, check=False)
    if missing := re.search("ToolMissing: tool-missing: (.*)", done.stdout):
        pytest.skip(missing[1])
    assert done.status == 0, done.stdout
    report = (tmp_path / "report.xml").read_text()
    assert set(re.findall(r'classname="(\w+)"', report)) == set(names)
    assert 'skipped="0"' in report
