"""A small Malta from before 5.18, for what only older kernels lack."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from pytest_kernelvm import Cell
from pytest_kernelvm.config.load import read_config
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.vm.machine.bootable import Bootable
from pytest_kernelvm.vm.qemu.argv import loader_argv
from tests.vm.small_kernel_symbols import LEAST

PATCH = "phram-cached-mapping"

# Of the image in memory, which is a phram device.
ADDRESS, IMAGE_BYTES = 0x0700_0000, 0x10_0000
RESERVED = f"memmap={IMAGE_BYTES:#x}${ADDRESS:#x}"
MODULES = ("phram", "mtdblock")

SMALL = f"""\
arch: mips
kernel:
  version: "5.10"
  source: {{debian: linux-source-5.10, suite: bullseye}}
  patches: [PATCHES]
  symbols:
    BUG: y
    EXPERT: y
    EPOLL: y
    POSIX_TIMERS: y
    HIGH_RES_TIMERS: y
    MIPS_MALTA: y
    32BIT: y
    CPU_BIG_ENDIAN: y
    CPU_MIPS32_R2: y
    MIPS_FP_SUPPORT: y
    SERIAL_8250: y
    SERIAL_8250_CONSOLE: y
    SERIAL_8250_NR_UARTS: 3
    SERIAL_8250_RUNTIME_UARTS: 3
    PCI: y
    PCI_QUIRKS: y
    POWER_RESET: y
    POWER_RESET_PIIX4_POWEROFF: y
    POWER_RESET_SYSCON: y
    VT: n
    INPUT: n
    IO_URING: n
    AIO: n
    SLUB_DEBUG: n
    SERIAL_8250_PCI: n
    VGA_ARB: n
    BLOCK: y
    MTD: m
    MTD_BLOCK: m
    MTD_PHRAM: m
{LEAST}"""


def old_cell(store: Store, directory: Path, *, patched: bool) -> Cell:
    """Return a cell of 5.10, with the patch of ours for it or without.

    directory: takes its vm-config.
    """
    file = directory / "old.yaml"
    patch = f"{{file: {PATCH}, versions: '<5.18'}}" if patched else ""
    file.write_text(SMALL.replace("PATCHES", patch))
    (config,) = read_config(file)
    return Cell(config, store)


def with_image(
    cell: Cell,
    image: Path,
    *modules: str,
    cmdline: str = RESERVED,
    files: Mapping[str, bytes] | None = None,
) -> Bootable:
    """Return a guest with an image in memory, its initramfs below: QEMU's place is memory's end.

    modules: further ones. cmdline: what keeps the kernel off the image.
    """
    fixed = cell.config.arch.fixed_initramfs
    assert fixed is not None
    device = f"phram.phram=rootfs,{ADDRESS:#x},{IMAGE_BYTES:#x}"
    made_of = cell.bootable(
        modules=(*MODULES, *modules), cmdline=f"{fixed.cmdline} {cmdline} {device}", files=files
    )
    extra = tuple(loader_argv(image, ADDRESS))
    boot = dataclasses.replace(made_of.boot, fixed_initramfs=True, extra=extra)
    return dataclasses.replace(made_of, boot=boot)
