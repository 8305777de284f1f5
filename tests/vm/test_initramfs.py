"""The initramfs as it is handed to QEMU."""

import gzip

from pytest_kernelvm import Cell, Initramfs
from pytest_kernelvm.guest import cpio

AGENT_ONLY_MOST_BYTES = 4096


def test_agent_alone_is_tiny(cell: Cell) -> None:
    initramfs = cell.initramfs(cell.closure(()))
    assert initramfs.paths == ("init",)
    assert initramfs.path.stat().st_size == initramfs.size_bytes <= AGENT_ONLY_MOST_BYTES
    (entry,) = cpio.entries_of(gzip.decompress(initramfs.path.read_bytes()))
    assert entry.content == cell.programs.agent.read_bytes()


def test_same_closure_same_bytes(cell: Cell, initramfs: Initramfs) -> None:
    again = cell.initramfs(cell.closure())
    assert again.path == initramfs.path
