"""Kernels that differ from a cell's in a few symbols or patches, and guests that boot them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

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


# A tree's bootargs count where there are some; otherwise it is as FROM_BOOTLOADER.
FROM_TREE = {"MIPS_CMDLINE_FROM_DTB": "y"}
NOT_FROM_TREE = ("MIPS_CMDLINE_FROM_BOOTLOADER",)


def with_device_tree(cell: Cell, *further_patches: str) -> Cell:
    """Return a cell of a Malta whose kernel takes the bootloader's device tree.

    further_patches: names of those that we ship.
    """
    patches = ("malta-device-tree", *further_patches)
    return variant(cell, FROM_TREE, without=NOT_FROM_TREE, builtin_patches=patches)


def without_kexec(cell: Cell) -> Cell:
    """Return a cell whose kernel cannot load another one."""
    return variant(cell, {cell.config.arch.kexec_symbol: "n"})
