"""A source as small as one can be that is made like a kernel: real make, compiler and linker."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.config.load import read_config
from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.process import Completed, run

ARCH = ARCHES["mips"]
KERNELVM = "import sys; from pytest_kernelvm.cli.main import main; sys.exit(main())"

# It notes each compilation in the file $COMPILED, and stops before one until the file $GO is there.
MAKEFILE = """\
VERSION = 6
PATCHLEVEL = 12
SUBLEVEL = 1
EXTRAVERSION =

CC = $(CROSS_COMPILE)gcc

allnoconfig:
	@: >$(O)/.config

olddefconfig:
	@sort -u -o $(O)/.config $(O)/.config

vmlinux: $(O)/vmlinux $(O)/System.map $(O)/include/config/kernel.release

$(O)/vmlinux: $(O)/main.o $(O)/other.o
	@$(CROSS_COMPILE)ld -e start -o $@ $^

$(O)/%.o: init/%.c $(O)/.config
	@[ -z "$$COMPILED" ] || echo $* >>$$COMPILED
	@[ -z "$$GO" ] || until [ -e "$$GO" ]; do sleep 0.02; done
	@$(CC) -c -o $@ $<

$(O)/System.map: $(O)/vmlinux
	@$(CROSS_COMPILE)nm $< >$@

include/config/kernel.release: $(O)/include/config/kernel.release

$(O)/include/config/kernel.release:
	@mkdir -p $(@D)
	@echo 6.12.1 >$@

headers:
	@mkdir -p $(O)/usr/include/linux
	@cp include/uapi/linux/seen.h $(O)/usr/include/linux/
"""
FILES = {
    "Makefile": MAKEFILE,
    "Kconfig": "",
    "init/main.c": "int start;\n",
    "init/other.c": "int other;\n",
    "include/uapi/linux/seen.h": "#define SEEN 1\n",
    "tools/include/nolibc/nolibc.h": "",
}
CONFIG = """\
arch: mips
kernel:
  version: "6.12"
  source: {{{source}}}
  symbols: {{{symbols}}}
  patches: [{patches}]
  fragments: [{fragments}]
"""


def write_small_kernel(tree: Path, changes: Mapping[str, str] | None = None) -> Path:
    """Write the source; skip the test where nothing can compile it."""
    if not shutil.which(f"{ARCH.toolchain_prefix}gcc"):
        pytest.skip(f"{ARCH.toolchain_prefix}gcc is not installed")
    for name, text in {**FILES, **(changes or {})}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    return tree


def write_cell(
    directory: Path,
    source: str,
    symbols: str = "",
    patches: str = "",
    fragments: str = "",
    name: str = "small",
) -> CellConfig:
    """Write a vm-config and return its cell.

    source, symbols, patches, fragments: as they stand in the YAML between brackets.
    """
    file = directory / "vm-configs" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    text = CONFIG.format(source=source, symbols=symbols, patches=patches, fragments=fragments)
    file.write_text(text)
    (cell,) = read_config(file)
    return cell


def build_argv(directory: Path, store: Path, cell: str) -> list[str | Path]:
    """Return the command that builds a cell's kernel in a process of its own."""
    argv: list[str | Path] = [sys.executable, "-c", KERNELVM, "--store", store]
    return [*argv, "--configs", directory / "vm-configs", "build", cell]


def kernelvm_build(directory: Path, store: Path, cell: str = "small-6.12") -> Completed:
    """Build a cell's kernel as a user does."""
    return run(build_argv(directory, store, cell), timeout_s=120, check=False)
