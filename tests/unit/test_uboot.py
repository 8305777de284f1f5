"""What is refused before U-Boot is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kernelvm.arch.base import ARCHES
from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.kernel.uboot import obtain_uboot
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.store.store import Store


def test_no_uboot_where_qemu_passes_a_tree(tmp_path: Path) -> None:
    without = [arch for arch in ARCHES.values() if not arch.uboot]
    assert without
    for arch in without:
        with pytest.raises(BadInput, match=f"no U-Boot for {arch.name}"):
            obtain_uboot(Store(tmp_path, Silent()), arch)
    assert list(tmp_path.iterdir()) == []


def test_uboot_is_where_a_first_stage_is() -> None:
    """And it finds its script in memory that it leaves alone."""
    for arch in ARCHES.values():
        assert bool(arch.uboot) == bool(arch.first_stage)
        if arch.uboot and arch.fixed_initramfs:
            fixed = arch.fixed_initramfs
            assert arch.uboot.script < fixed.address
            assert fixed.address + fixed.size_bytes < arch.uboot.end
            assert arch.uboot.end < arch.uboot.memory_mib << 20 <= arch.max_memory_mib << 20
