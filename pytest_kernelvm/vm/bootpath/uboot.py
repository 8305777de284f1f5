"""U-Boot in front of the kernel: a bootloader that people use, with commands of the caller's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.kernel.uboot import EPOCH, UBootBinary, no_uboot
from pytest_kernelvm.process import run
from pytest_kernelvm.vm.bootpath.first_stage import LoadedBytes, read_image
from pytest_kernelvm.vm.bootpath.layout import PAGE_BYTES, Extent, lay_out
from pytest_kernelvm.vm.qemu.argv import Boot, PlacedFile

MKIMAGE_TIMEOUT_S = 60.0


def through_uboot(
    boot: Boot, uboot: UBootBinary, directory: Path, commands: Sequence[str], *, tree: bytes = b""
) -> Boot:
    """Return what to boot so that U-Boot runs commands, which are to boot the kernel.

    commands: of its shell. In them `{kernel}` and `{tree}` are the virtual addresses of the kernel,
    as `bootm` wants it, and of the device tree, behind which there is a page to grow into.
    directory: takes what U-Boot finds in memory. The initramfs is at its fixed address.
    Raises BadInput if that does not fit beside the kernel, or U-Boot has not been built for it.
    """
    arch, board = boot.arch, boot.arch.uboot
    if not board:
        raise no_uboot(arch)
    image = read_image(boot.image, arch)
    content, flat = directory / "kernel.bin", directory / "tree.dtb"
    content.write_bytes(image.loaded.content)
    flat.write_bytes(tree)
    start = board.virtual + image.loaded.address
    kernel = _mkimage(
        uboot, arch, "kernel", content, "-a", f"{start:#x}", "-e", f"{image.entry:#x}"
    )
    script_at, kernel_at, tree_at = lay_out(
        Extent(name="U-Boot's room", address=board.script, size_bytes=board.end - board.script),
        (
            ("script", PAGE_BYTES),
            ("kernel's image", kernel.stat().st_size),
            ("tree", len(tree) + PAGE_BYTES),
        ),
        taken=_taken(arch, image.loaded),
    )
    addresses = {
        "{kernel}": board.virtual + kernel_at.address,
        "{tree}": board.virtual + tree_at.address,
    }
    script = _script(uboot, arch, directory, commands, addresses, script_at.size_bytes)
    pieces = [(script, script_at), (kernel, kernel_at)]
    if tree:
        pieces.append((flat, tree_at))
    placed = (PlacedFile(file=file, address=extent.address) for file, extent in pieces)
    return replace(
        boot,
        firmware=uboot.firmware,
        fixed_initramfs=True,
        machine=replace(boot.machine, memory_mib=board.memory_mib),
        loaded=(*boot.loaded, *placed),
    )


def _script(
    uboot: UBootBinary,
    arch: Arch,
    directory: Path,
    commands: Sequence[str],
    addresses: Mapping[str, int],
    most_bytes: int,
) -> Path:
    """Return the image of a script of commands, with addresses in place of their names.

    most_bytes: how large it may be.
    """
    text = "\n".join((*commands, ""))
    for name, address in addresses.items():
        text = text.replace(name, f"{address:#x}")
    file = directory / "script.txt"
    file.write_text(text)
    script = _mkimage(uboot, arch, "script", file)
    if script.stat().st_size > most_bytes:
        raise BadInput(
            f"the commands for U-Boot have {len(text)} bytes",
            Evidence(expected=f"less than {most_bytes}"),
        )
    return script


def _taken(arch: Arch, kernel: LoadedBytes) -> tuple[Extent, ...]:
    """Return where the kernel will be when it runs, and its initramfs."""
    running = Extent(
        name="the running kernel", address=kernel.address, size_bytes=len(kernel.content)
    )
    fixed = arch.fixed_initramfs
    if not fixed:
        return (running,)
    return running, Extent(name="initramfs", address=fixed.address, size_bytes=fixed.size_bytes)


def _mkimage(uboot: UBootBinary, arch: Arch, kind: str, content: Path, *flags: str) -> Path:
    """Return an image of a kind, beside its content. flags: further ones of mkimage(1)."""
    made = content.with_suffix(".image")
    argv: list[str | Path] = [uboot.mkimage, "-A", arch.linux_arch, "-O", "linux", "-T", kind]
    argv += ["-C", "none", *flags, "-d", content, made]
    run(argv, env=EPOCH, timeout_s=MKIMAGE_TIMEOUT_S)
    return made
