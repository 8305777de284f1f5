"""`kernelvm config` with real sources: explain, diff, and edit in a terminal."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pexpect
import pytest

from pytest_kernelvm.config.select import select_cells
from pytest_kernelvm.errors import Verdict
from pytest_kernelvm.process import Completed, run
from pytest_kernelvm.store.store import Store
from tests.vm.project import store_of_sources

# The marker is the plugin's own; these tests boot nothing but need the sources that guests do.
pytestmark = [pytest.mark.vm, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
KERNELVM = ("-c", "import sys; from pytest_kernelvm.cli.main import main; sys.exit(main())")
NCURSES_HEADERS = ("/usr/include/ncurses.h", "/usr/include/ncursesw/ncurses.h")


@pytest.fixture
def store(kernelvm_store: Store, project: Path, tmp_path: Path) -> Path:
    cells = select_cells(project / "vm-configs", names=["small"])
    return store_of_sources(tmp_path, kernelvm_store, cells)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory whose vm-config is small and asks for no patch."""
    configs = tmp_path / "project" / "vm-configs"
    configs.mkdir(parents=True)
    (configs / "small.yaml").write_text(
        "arch: mips\n"
        "kernel:\n"
        '  version: ["6.1", "6.12"]\n'
        "  symbols: {MIPS_MALTA: y, MODULES: y, NET: y, INET: y, SLUB_DEBUG: n, EXPERT: y}\n"
    )
    return configs.parent


def kernelvm(project: Path, store: Path, *argv: str) -> Completed:
    words = [sys.executable, *KERNELVM, "--store", str(store), "config", *argv]
    return run(words, cwd=project, timeout_s=300, check=False)


def test_explain_a_symbol_that_is_set(project: Path, store: Path) -> None:
    said = kernelvm(project, store, "explain", "small-6.12", "CONFIG_INET")
    assert said.status == 0, said.stderr
    lines = said.stdout.splitlines()
    assert lines[0] == "INET is y in small-6.12"
    assert re.fullmatch(r'  bool "TCP/IP networking", net/Kconfig:[0-9]+', lines[1])
    assert lines[2:4] == ["  asked for as y, vm-configs/small.yaml:4:54", "  where it may be set:"]
    assert re.fullmatch(
        r"    if NET  net/Kconfig:[0-9]+: NET=y \(asked for: vm-configs/small.yaml:4:45\)", lines[4]
    )


def test_explain_what_a_symbol_would_take(project: Path, store: Path) -> None:
    said = kernelvm(project, store, "explain", "small-6.1", "USB_STORAGE=m")
    assert said.status == 0, said.stderr
    assert said.stdout.startswith("USB_STORAGE is n in small-6.1\n")
    assert "if USB_SUPPORT" in said.stdout
    assert "tried: olddefconfig keeps it with these as well" in said.stdout
    assert "CONFIG_USB_SUPPORT=y" in said.stdout
    said = kernelvm(project, store, "explain", "small-6.1", "SYSVIPC")
    assert "tried: olddefconfig keeps SYSVIPC=y if it is asked for" in said.stdout


def test_explain_a_symbol_that_does_not_exist(project: Path, store: Path) -> None:
    said = kernelvm(project, store, "explain", "small-6.12", "SLOB")
    assert said.status == Verdict.BAD_INPUT.exit_code
    assert "small-6.12 has no symbol SLOB" in said.stderr
    assert "renamed to SLUB_TINY in 6.4" in said.stderr


def test_diff_of_versions(project: Path, store: Path) -> None:
    said = kernelvm(project, store, "diff", "small-6.1", "6.12")
    assert said.status == 0, said.stderr
    parts = dict(part.split("\n", 1) for part in said.stdout.strip().split("\n\n"))
    titles = [title.rpartition(" (")[0] for title in parts]
    assert titles == [
        "gone: small-6.12 does not define them",
        "new: small-6.1 does not define them",
        "changed with others, or by default",
    ]
    gone, new, changed = parts.values()
    assert "  SLOB " in gone
    assert "  SLUB_TINY " in new
    assert " -> " in changed
    assert kernelvm(project, store, "diff", "6.12", "6.12").stdout == (
        "small-6.12 and small-6.12 say the same\n"
    )


def test_diff_of_a_cell_and_a_file(project: Path, store: Path) -> None:
    (project / "a.config").write_text("CONFIG_INET=y\nCONFIG_USB=m\n")
    said = kernelvm(project, store, "diff", "a.config", "small-6.12")
    assert said.status == 0, said.stderr
    lines = [line.split() for line in said.stdout.splitlines()]
    assert ["USB", "m", "->", "n"] in lines
    assert ["NET", "n", "->", "y"] in lines
    assert not [line for line in lines if line[:1] == ["INET"]]


@pytest.mark.skipif(
    not any(map(os.path.exists, NCURSES_HEADERS)) or not shutil.which("pkg-config"),
    reason="nconfig needs libncurses-dev and pkg-config",
)
def test_edit(project: Path, store: Path, tmp_path: Path) -> None:
    """In nconfig, COMPILE_TEST is made y; what it brings along is not in the fragment."""
    words = [*KERNELVM, "--store", str(store), "config", "edit", "small-6.12"]
    child = pexpect.spawn(
        sys.executable,
        [*words, "--output", str(tmp_path / "made.config")],
        cwd=project,
        env={**os.environ, "TERM": "xterm", "LC_ALL": "C"},
        dimensions=(40, 100),
        encoding="utf-8",
        timeout=200,
    )
    with child:
        # The menu, its first entry, y to the first question there; F9, yes, and the notice of it.
        for shown, keys in (
            ("General setup", "\r"),
            ("Compile also drivers", "y"),
            (r"\[\*\]", "\x1b[20~"),
            ("Do you wish to save", "\r"),
            ("configuration written", "\r"),
        ):
            child.expect(shown)
            child.send(keys)
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0, child.before
    assert (tmp_path / "made.config").read_text() == "CONFIG_COMPILE_TEST=y\n"
    assert list((store / "tmp").iterdir()) == []
