"""A file system in reserved memory on a kernel from before 5.18, with our patch and without."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from pytest_kernelvm import Vm
from pytest_kernelvm.errors import CommandFailed, ToolMissing
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.vm.machine.start import boot_guest
from tests.vm.old_kernel import ADDRESS, IMAGE_BYTES, MODULES, RESERVED, old_cell, with_image

pytestmark = [pytest.mark.vm, pytest.mark.slow]

# Says where the kernel has mapped an MTD device. On MIPS that decides what is cached: below
# 0xa0000000 everything, from there on, to 0xc0000000, nothing (arch/mips/include/asm/addrspace.h).
MAPPED = """
#include <linux/err.h>
#include <linux/module.h>
#include <linux/mtd/mtd.h>
static int __init start(void)
{
	struct mtd_info *mtd = get_mtd_device_nm("rootfs");
	size_t length;
	void *at;

	if (IS_ERR(mtd))
		return PTR_ERR(mtd);
	if (!mtd_point(mtd, 0, mtd->size, &length, &at, NULL)) {
		pr_info("rootfs mapped at %px\\n", at);
		mtd_unpoint(mtd, 0, length);
	}
	put_mtd_device(mtd);
	return 0;
}
static void __exit end(void) { }
module_init(start);
module_exit(end);
MODULE_LICENSE("GPL");
"""


class Old:
    """Boots 5.10 with an image in memory."""

    def __init__(self, store: Store, directory: Path) -> None:
        self.store = store
        self.directory = directory
        self.content = bytes(range(256)) * (IMAGE_BYTES // 256)
        (directory / "image").write_bytes(self.content)

    def boot(self, *, patched: bool, cmdline: str) -> AbstractContextManager[Vm]:
        cell = old_cell(self.store, self.directory, patched=patched)
        try:
            assert cell.kernel
        except ToolMissing as missing:
            pytest.skip(str(missing))
        cell = cell.variant(external={"mapped": MAPPED})
        made_of = with_image(cell, self.directory / "image", "mapped", cmdline=cmdline)
        return boot_guest(made_of, self.directory)

    def mapped_at(self, vm: Vm) -> int:
        """Return the virtual address of the device, whose content is looked at before and after."""
        vm.modprobe("-a", *MODULES)
        assert vm.read_bytes("/dev/mtdblock0") == self.content
        vm.write("/dev/mtdblock0", "written")
        vm.write("/proc/sys/vm/drop_caches", "3")
        assert vm.read_bytes("/dev/mtdblock0")[:8] == b"written\x07"
        vm.modprobe("mapped")
        (found,) = vm.dmesg.matching(r"rootfs mapped at [0-9a-f]{8}$")
        return int(found.text.split()[-1], 16)


@pytest.fixture
def old(kernelvm_store: Store, tmp_path: Path) -> Old:
    return Old(kernelvm_store, tmp_path)


def test_reserved_memory_is_cached(old: Old) -> None:
    with old.boot(patched=True, cmdline=RESERVED) as vm:
        assert old.mapped_at(vm) == 0x8000_0000 + ADDRESS


def test_without_the_patch_reserved_memory_is_uncached(old: Old) -> None:
    """Beside the kernel's own mapping, which is cached: two views of the same bytes."""
    with old.boot(patched=False, cmdline=RESERVED) as vm:
        assert old.mapped_at(vm) == 0xA000_0000 + ADDRESS


def test_what_is_no_memory_of_the_kernels_stays_uncached(old: Old) -> None:
    with old.boot(patched=True, cmdline=f"mem={ADDRESS >> 20}M") as vm:
        assert old.mapped_at(vm) == 0xA000_0000 + ADDRESS


def test_memory_that_nobody_reserved_is_refused(old: Old) -> None:
    """The page allocator gives it to others; without the patch two would write there."""
    with old.boot(patched=True, cmdline="") as vm:
        with pytest.raises(CommandFailed):
            vm.modprobe("phram")
        assert f"cannot map {IMAGE_BYTES} bytes at {ADDRESS:#010x}" in vm.dmesg
