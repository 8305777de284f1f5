"""U-Boot in front of the kernel: a bootloader that people use, with commands of the caller's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_kernelvm.arch.base import Arch, UBoot
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.kernel.uboot import EPOCH, UBootBinary, no_uboot
from pytest_kernelvm.process import run
from pytest_kernelvm.vm.bootpath.first_stage import KernelInMemory, LoadedBytes, read_image
from pytest_kernelvm.vm.bootpath.layout import PAGE_BYTES, Extent, lay_out
from pytest_kernelvm.vm.qemu.argv import Boot, PlacedFile

MKIMAGE_TIMEOUT_S = 60.0


def through_uboot(
    boot: Boot, uboot: UBootBinary, directory: Path, commands: Sequence[str], *, tree: bytes = b""
) -> Boot:
    """Return what to boot so that U-Boot runs commands, which are to boot the kernel.

    The initramfs lies at its fixed address. Raises BadInput if that does not fit beside the kernel,
    or U-Boot has not been built for the architecture.

    Args:
        boot: What is booted otherwise.
        uboot: The bootloader.
        directory: Gets what U-Boot finds in memory.
        commands: Lines for U-Boot's shell. In them `{kernel}` and `{tree}` stand for the virtual
            addresses of the kernel, as `bootm` wants it, and of the device tree, behind which there
            is a page to grow into.
        tree: A flat device tree, empty for none.
    """
    arch, board = boot.arch, _uboot_of(boot.arch)
    image = read_image(boot.image, arch)
    flat = directory / "tree.dtb"
    flat.write_bytes(tree)
    kernel = _kernel(uboot, arch, directory, image)
    room = Extent(name="U-Boot's room", address=board.script, size_bytes=board.end - board.script)
    script_at, kernel_at, tree_at = lay_out(
        room,
        (
            ("script", PAGE_BYTES),
            ("kernel's image", kernel.stat().st_size),
            ("tree", len(tree) + PAGE_BYTES),
        ),
        taken=_taken(arch, image.loaded),
    )
    where = {"{kernel}": kernel_at.address, "{tree}": tree_at.address}
    addresses = {name: board.virtual + address for name, address in where.items()}
    script = _script(uboot, arch, directory, commands, addresses, script_at.size_bytes)
    pieces = [(script, script_at), (kernel, kernel_at), *([(flat, tree_at)] if tree else [])]
    placed = (PlacedFile(file=file, address=extent.address) for file, extent in pieces)
    return replace(
        boot,
        firmware=uboot.firmware,
        fixed_initramfs=True,
        machine=replace(boot.machine, memory_mib=board.memory_mib),
        loaded=(*boot.loaded, *placed),
    )


def _uboot_of(arch: Arch) -> UBoot:
    if not arch.uboot:
        raise no_uboot(arch)
    return arch.uboot


def _kernel(uboot: UBootBinary, arch: Arch, directory: Path, image: KernelInMemory) -> Path:
    """Return the kernel as U-Boot's image."""
    content = directory / "kernel.bin"
    content.write_bytes(image.loaded.content)
    start = f"{_uboot_of(arch).virtual + image.loaded.address:#x}"
    return _mkimage(uboot, arch, "kernel", content, "-a", start, "-e", f"{image.entry:#x}")


def _script(
    uboot: UBootBinary,
    arch: Arch,
    directory: Path,
    commands: Sequence[str],
    addresses: Mapping[str, int],
    most_bytes: int,
) -> Path:
    """Return the image of a script of commands.

    Args:
        uboot: Has mkimage(1).
        arch: The architecture.
        directory: Gets the image.
        commands: The lines.
        addresses: What is put in place of a name.
        most_bytes: How large the image may be.

    Raises:
        BadInput: It is larger.
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
