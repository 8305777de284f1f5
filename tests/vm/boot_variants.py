"""Kernels that differ from a cell's in a few symbols or patches, and guests that boot them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pytest_kernelvm import Cell
from pytest_kernelvm.config.patches import BUILTIN_PATCHES, Patch
from pytest_kernelvm.config.requests import Requested

PATCHES = Path(__file__).parent / "patches"


def variant(
    cell: Cell,
    symbols: Mapping[str, str],
    *,
    without: Sequence[str] = (),
    patches: Sequence[str] = (),
    builtin_patches: Sequence[str] = (),
) -> Cell:
    """Return a cell whose kernel has other symbols and further patches.

    symbols: values by name, which win. without: what is not asked for any more, as a choice has
        other members.
    patches: names of files beside this one, without .patch; builtin_patches: those that we ship.
    """
    config = cell.config
    dropped = {*without, *symbols}
    kept = tuple(each for each in config.kernel.symbols if each.name not in dropped)
    asked = tuple(
        Requested(name=name, value=value, where="the test", force=True)
        for name, value in symbols.items()
    )
    files = [PATCHES / f"{name}.patch" for name in patches]
    files += [BUILTIN_PATCHES / f"{name}.patch" for name in builtin_patches]
    further = tuple(Patch(name=file.stem, file=file, where="the test") for file in files)
    kernel = dataclasses.replace(
        config.kernel,
        symbols=(*kept, *asked),
        patches=(*config.kernel.patches, *further),
    )
    return Cell(dataclasses.replace(config, kernel=kernel), cell.store)


def with_device_tree(cell: Cell, *, hands_over: bool = False) -> Cell:
    """Return a cell whose kernel takes the bootloader's device tree; skips where none can.

    A tree's bootargs count where there are some, otherwise the bootloader's line.

    hands_over: whether the kernel gives the next one a tree when it enters that by kexec.
    """
    arch = cell.config.arch
    stage = arch.first_stage
    if not stage:
        pytest.skip(f"{arch.name} gets its tree from QEMU")
    patches = (stage.tree_patch, *([stage.kexec_tree_patch] if hands_over else []))
    symbols, without = {stage.tree_cmdline_symbol: "y"}, (stage.loader_cmdline_symbol,)
    return variant(cell, symbols, without=without, builtin_patches=patches)


def without_kexec(cell: Cell) -> Cell:
    """Return a cell whose kernel cannot load another one; skips where none can."""
    arch = cell.config.arch
    if not arch.kexec_symbol:
        pytest.skip(f"kexec is not known to work on {arch.name}")
    return variant(cell, {arch.kexec_symbol: "n"})
