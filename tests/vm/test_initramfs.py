"""The initramfs as it is handed to QEMU."""

import dataclasses
import gzip
from pathlib import Path

import pytest

from pytest_kernelvm import Cell, Initramfs
from pytest_kernelvm.guest import cpio
from pytest_kernelvm.vm.machine.start import boot_guest

AGENT_ONLY_MOST_BYTES = 4096


def most_bytes(cell: Cell, limit: int) -> int:
    """Return the largest size that is accepted; skips where nobody has set one."""
    if not limit:
        pytest.skip(f"no limit is set for {cell.config.arch.name}")
    return limit


def test_agent_alone_is_tiny(cell: Cell) -> None:
    initramfs = cell.initramfs(cell.closure(()))
    assert initramfs.paths == ("init",)
    assert initramfs.path.stat().st_size == initramfs.size_bytes <= AGENT_ONLY_MOST_BYTES
    (entry,) = cpio.entries_of(gzip.decompress(initramfs.path.read_bytes()))
    assert entry.content == cell.programs.agent.read_bytes()


def test_same_closure_same_bytes(cell: Cell, initramfs: Initramfs) -> None:
    again = cell.initramfs(cell.closure())
    assert again.path == initramfs.path


def test_modprobe_is_small(cell: Cell, initramfs: Initramfs) -> None:
    size_bytes = cell.programs.modprobe.stat().st_size
    assert size_bytes <= most_bytes(cell, cell.config.arch.for_tests.modprobe_most_bytes)
    (packed,) = (
        entry
        for entry in cpio.entries_of(initramfs.path.read_bytes())
        if entry.path == "sbin/modprobe"
    )
    assert len(packed.content) == size_bytes


def test_what_leads_into_a_root_is_tiny(cell: Cell) -> None:
    limit = most_bytes(cell, cell.config.arch.for_tests.preinit_most_bytes)
    assert cell.programs.preinit.stat().st_size <= limit
    assert cell.programs.activate.stat().st_size <= limit


def test_modprobe_is_what_the_cpu_can_execute(cell: Cell, tmp_path: Path) -> None:
    arch = cell.config.arch
    cpu = arch.for_tests.cpu_without_compact_code
    if not arch.compact_cflags or not cpu:
        pytest.skip(f"{arch.name} has one instruction set")
    machine = dataclasses.replace(cell.config.machine, cpu=cpu)
    plain = Cell(dataclasses.replace(cell.config, machine=machine), cell.store)
    assert plain.programs.modprobe.stat().st_size > cell.programs.modprobe.stat().st_size
    with boot_guest(plain.bootable(modules=["dummy"]), tmp_path) as vm:
        vm.modprobe("dummy")
        assert [module.name for module in vm.modules] == ["dummy"]
