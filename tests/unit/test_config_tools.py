"""pahole and rustc: hidden from Kconfig where they are not needed, else reported if missing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_kernelvm.config.load import read_config
from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.errors import ToolMissing
from pytest_kernelvm.kernel.build.build import build_kernel
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.store.store import Store
from tests.unit.small_kernel import MAKEFILE, write_small_kernel
from tests.unit.test_source import RecordedProgress

# As lib/Kconfig.debug and scripts/link-vmlinux.sh of 6.1 have it: the symbol depends on nothing,
# and what makes the image asks for the program last of all.
LATE = (
    MAKEFILE.replace("CC = $(CROSS_COMPILE)gcc\n", "CC = $(CROSS_COMPILE)gcc\nPAHOLE = pahole\n")
    .replace(
        "\t@sort -u -o $(O)/.config $(O)/.config\n",
        """\
	@grep -v PAHOLE_VERSION $(O)/.config >$(O)/new || :
	@echo CONFIG_PAHOLE_VERSION=$$($(PAHOLE) --version 2>/dev/null | tr -dc 0-9 || :) >>$(O)/new
	@sort -u $(O)/new >$(O)/.config
""",
    )
    .replace(
        "\t@$(CROSS_COMPILE)ld -e start -o $@ $^\n",
        """\
	@! grep -q CONFIG_DEBUG_INFO_BTF=y $(O)/.config || $(PAHOLE) --version >/dev/null || \\
	{ echo "BTF: vmlinux: pahole ($(PAHOLE)) is not available"; exit 1; }
	@$(CROSS_COMPILE)ld -e start -o $@ $^
""",
    )
)
# As 6.12: without the program the symbol cannot be y.
EARLY = LATE.replace(
    "\t@sort -u $(O)/new >$(O)/.config\n",
    """\
	@if grep -qx CONFIG_PAHOLE_VERSION= $(O)/new; then sed -i /_BTF=y/d $(O)/new; fi
	@sort -u $(O)/new >$(O)/.config
""",
)
VM_CONFIG = """\
arch: mips
kernel:
  version: "6.12"
  source: {{tree: {tree}}}
  base: {base}
  symbols: {{{symbols}}}
"""


@pytest.fixture(autouse=True)
def no_remote_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERNELVM_REMOTE", raising=False)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory in PATH, with all programs of this machine but those that are hidden."""
    directory = tmp_path / "bin"
    directory.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for path in Path(place).glob("*"):
            if path.name not in ("pahole", "rustc") and not (directory / path.name).exists():
                (directory / path.name).symlink_to(path)
    monkeypatch.setenv("PATH", str(directory))
    return directory


def install(programs: Path, version: str, name: str = "pahole") -> None:
    (programs / name).unlink(missing_ok=True)
    (programs / name).write_text(f"#!/bin/sh\necho {version}\n")
    (programs / name).chmod(0o755)


def write_cell(tmp_path: Path, makefile: str, *, base: str = "", symbols: str = "") -> CellConfig:
    """Return a cell. base: the text of a complete .config, empty for allnoconfig."""
    tree = write_small_kernel(tmp_path / "linux", {"Makefile": makefile})
    file = tmp_path / "small.yaml"
    name = "allnoconfig"
    if base:
        name = "complete.config"
        (tmp_path / name).write_text(base)
    file.write_text(VM_CONFIG.format(tree=tree, base=name, symbols=symbols))
    (cell,) = read_config(file)
    return cell


BASE = "CONFIG_DEBUG_INFO_BTF=y\nCONFIG_OTHER=y\n"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A cell that comes to BTF, or may. where: the place that an error names."""

    name: str
    makefile: str
    where: str
    base: str = ""
    symbols: str = ""


CASES = [
    Case(name="asked for, before 6.12", makefile=LATE, symbols="DEBUG_INFO_BTF: y", where="yaml:6"),
    Case(name="asked for, 6.12", makefile=EARLY, symbols="DEBUG_INFO_BTF: y", where="yaml:6"),
    Case(name="of a complete .config", makefile=LATE, base=BASE, where="complete.config"),
    Case(
        name="of nothing that is known before",
        makefile=LATE.replace(
            "@sort -u $(O)/new", "@(cat $(O)/new; echo CONFIG_DEBUG_INFO_BTF=y) | sort -u"
        ),
        where="allnoconfig",
    ),
]


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_without_pahole_nothing_is_compiled(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = tmp_path / "compiled"
    monkeypatch.setenv("COMPILED", str(compiled))
    cell = write_cell(tmp_path, case.makefile, base=case.base, symbols=case.symbols)
    with pytest.raises(ToolMissing, match="pahole is not installed, and DEBUG_INFO_BTF=y") as gone:
        build_kernel(Store(tmp_path / "store", Silent()), cell)
    assert "apt-get install dwarves" in gone.value.evidence.next_step
    assert case.where in gone.value.evidence.where[0]
    assert not compiled.exists()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_with_pahole_it_is_used(case: Case, programs: Path, tmp_path: Path) -> None:
    install(programs, "v1.25")
    cell = write_cell(tmp_path, case.makefile, base=case.base, symbols=case.symbols)
    kernel = build_kernel(Store(tmp_path / "store", Silent()), cell)
    assert kernel.config["DEBUG_INFO_BTF"] == "y"
    assert kernel.config["PAHOLE_VERSION"] == "125"


def test_pahole_is_installed_after_the_error(programs: Path, tmp_path: Path) -> None:
    store = Store(tmp_path / "store", Silent())
    cell = write_cell(tmp_path, LATE, base=BASE)
    with pytest.raises(ToolMissing):
        build_kernel(store, cell)
    install(programs, "v1.25")
    assert build_kernel(store, cell).config["PAHOLE_VERSION"] == "125"


@pytest.mark.usefixtures("programs")
def test_a_complete_config_of_6_12_loses_the_symbol_without_pahole(tmp_path: Path) -> None:
    """conf drops it; that is reported, as every value that differs from the base."""
    progress = RecordedProgress()
    kernel = build_kernel(
        Store(tmp_path / "store", progress), write_cell(tmp_path, EARLY, base=BASE)
    )
    assert "DEBUG_INFO_BTF" not in kernel.config
    assert kernel.config["OTHER"] == "y"
    line = "DEBUG_INFO_BTF is off as pahole is not installed (apt-get install dwarves)"
    assert line in progress.lines


@pytest.mark.usefixtures("programs")
def test_an_optional_symbol_is_dropped_without_its_program(tmp_path: Path) -> None:
    progress = RecordedProgress()
    cell = write_cell(tmp_path, LATE, symbols="DEBUG_INFO_BTF: {value: y, optional: true}")
    kernel = build_kernel(Store(tmp_path / "store", progress), cell)
    assert "DEBUG_INFO_BTF" not in kernel.config
    assert any("is built without DEBUG_INFO_BTF=y" in line for line in progress.lines), (
        progress.lines
    )


@pytest.mark.parametrize("version", ["v1.15", "what?"])
def test_pahole_is_too_old_or_says_no_version(version: str, programs: Path, tmp_path: Path) -> None:
    install(programs, version)
    cell = write_cell(tmp_path, LATE, base=BASE)
    with pytest.raises(ToolMissing, match="too old, or says no version") as gone:
        build_kernel(Store(tmp_path / "store", Silent()), cell)
    assert gone.value.evidence.expected == "pahole 1.16 or newer"
    assert gone.value.evidence.seen == version


def test_a_program_that_is_not_needed_does_not_change_the_kernel(
    programs: Path, tmp_path: Path
) -> None:
    cell = write_cell(tmp_path, LATE, base="CONFIG_OTHER=y\n# CONFIG_DEBUG_INFO_BTF is not set\n")
    first = build_kernel(Store(tmp_path / "first", Silent()), cell)
    install(programs, "v1.25")
    second = build_kernel(Store(tmp_path / "second", Silent()), cell)
    assert first.digest == second.digest
