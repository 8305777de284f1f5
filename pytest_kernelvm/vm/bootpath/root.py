"""A root file system in memory: where it lies, and how the kernel learns of it."""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.config.roots import LEAST_ERASE_BYTES, Root
from pytest_kernelvm.errors import BadInput, Evidence, HarnessError
from pytest_kernelvm.guest.root_image import RootImage
from pytest_kernelvm.process import failure, run
from pytest_kernelvm.store.digest import digest_of, digest_of_bytes, known_digest
from pytest_kernelvm.store.kinds import ROOTS
from pytest_kernelvm.store.store import StagingDirectory, Store
from pytest_kernelvm.vm.bootpath.device_tree import (
    get_property,
    remove_property,
    reserve,
    set_property,
    tree_in,
)
from pytest_kernelvm.vm.bootpath.first_stage import KERNEL, boot_through, read_image, uhi_stage
from pytest_kernelvm.vm.bootpath.layout import Extent, lay_out, page_up, refuse_overlaps
from pytest_kernelvm.vm.qemu.argv import STAGE, Backends, Boot, PlacedFile, qemu_argv

# The name of the flash device, and of the node in the device tree.
NAME = "rootfs"
DEVICE = "/dev/mtdblock0"
QEMU_TIMEOUT_S = 30.0
# The room that QEMU gives to a tree that it passes (hw/arm/boot.c aligns it to 2 MiB).
_TREE_ROOM_BYTES = 2 << 20
_LOADER = "the first stage"
_TREE = "device-tree"


def announced_by(root: Root, arch: Arch) -> str:
    """Return how the kernel learns of a root: `cmdline` or `device-tree`.

    It is as the vm-config says, else as suits kind and architecture. JFFS2 has larger erase blocks
    than the page that phram gives to a device tree's node (drivers/mtd/devices/phram.c).
    """
    if root.by:
        return root.by
    return "cmdline" if arch.reads_uncached or root.kind == "jffs2" else "device-tree"


def erase_bytes(root: Root, arch: Arch) -> int:
    """Return how large the blocks of a root's device are (drivers/mtd/devices/phram.c)."""
    return root.erase_bytes if announced_by(root, arch) == "cmdline" else LEAST_ERASE_BYTES


def root_parameters(root: Root) -> str:
    """Return the kernel parameters that say what preinit mounts."""
    options = (f"rootflags={root.options}",) if root.options else ()
    return " ".join((f"root={DEVICE}", f"rootfstype={root.kind}", *options))


def boot_into(
    store: Store, boot: Boot, root: Root, image: RootImage, *, builtin_cmdline: str = ""
) -> Boot:
    """Return a boot that has a root's image in memory and a kernel that knows of it.

    Raises BadInput where there is no room for it or no device tree to describe it, ToolMissing
    without what edits trees.

    Args:
        store: Where device trees and first stages are kept.
        boot: What is booted, with the initramfs that mounts the root.
        root: What the vm-config says of the root.
        image: The image.
        builtin_cmdline: The command line that is built into the kernel, which may have what a fixed
            initramfs needs.
    """
    arch = boot.arch
    if arch.fixed_initramfs:
        # QEMU's bootloader would put the initramfs where the image goes.
        boot = replace(boot, fixed_initramfs=True)
    place = _place_at_end(boot, image)
    boot = replace(boot, root=image.path, root_address=place.address)
    words = root_parameters(root)
    if announced_by(root, arch) == "cmdline":
        fixed = arch.fixed_initramfs.cmdline if arch.fixed_initramfs else ""
        memory_limit = f"mem={place.address - arch.memory_address >> 10}K"
        flash = f"{NAME},{place.address:#x},{place.size_bytes:#x},{root.erase_bytes:#x}"
        words = f"{memory_limit} phram.phram={flash} {words}"
        line = " ".join(part for part in (fixed, boot.cmdline, words) if part)
        _refuse_longer(line, arch)
        return replace(boot, cmdline=line, root_words=words)
    if arch.first_stage:
        fixed = arch.fixed_initramfs.cmdline if arch.fixed_initramfs else ""
        parameter = "" if fixed in builtin_cmdline else f"{fixed} "
        boot = replace(boot, cmdline=f"{parameter}{boot.cmdline}")
        return _with_passed_tree(store, boot, place, words)
    boot = replace(boot, cmdline=f"{boot.cmdline} {words}")
    return replace(boot, device_tree=_stored_tree(store, _reserved(_tree_of_qemu(boot), place)))


def _refuse_longer(line: str, arch: Arch) -> None:
    """Raise BadInput where QEMU's bootloader would cut off the words that name the root."""
    if len(line.encode()) > arch.cmdline_bytes:
        raise BadInput(
            f"with the words for the root, the command line has {len(line.encode())} bytes",
            Evidence(
                expected=f"at most {arch.cmdline_bytes}",
                seen=line,
                next_step="pass fewer words, or put some into builtin_cmdline",
            ),
        )


def _place_at_end(boot: Boot, image: RootImage) -> Extent:
    """Return where an image lies: at memory's end, which leaves the kernel one piece below."""
    memory_end = boot.arch.memory_address + (boot.machine.memory_mib << 20)
    size = page_up(image.size_bytes)
    end = Extent(name="memory's end", address=max(0, memory_end - size), size_bytes=size)
    (place,) = lay_out(end, [(NAME, image.size_bytes)], taken=tuple(_taken(boot)))
    return place


def _taken(boot: Boot) -> Iterable[Extent]:
    """Yield what lies in memory besides, as far as that is known before QEMU has placed it."""
    arch = boot.arch
    assert boot.initramfs is not None
    size = boot.initramfs.stat().st_size
    kernel = boot.image.stat().st_size
    yield Extent(name="kernel", address=arch.memory_address, size_bytes=kernel)
    if arch.fixed_initramfs:
        room = arch.fixed_initramfs
        if size > room.size_bytes:
            raise BadInput(
                f"the initramfs has {size} bytes, and a guest with a root finds "
                f"{room.size_bytes} bytes at a fixed address",
                Evidence(next_step="pack fewer modules: build some into the kernel"),
            )
        yield Extent(name="initramfs", address=room.address, size_bytes=room.size_bytes)
    else:
        above = min((boot.machine.memory_mib << 20) // 2, arch.initramfs_above)
        yield Extent(
            name="initramfs and tree",
            address=arch.memory_address + above,
            size_bytes=size + 2 * _TREE_ROOM_BYTES,
        )


def _with_passed_tree(store: Store, boot: Boot, place: Extent, words: str) -> Boot:
    """Return a boot through a first stage that passes the tree.

    The kernel takes its command line from there, and what is built in besides.
    """
    arch = boot.arch
    line = f"{boot.cmdline} {words}"
    tree = set_property(tree_in(boot.image.read_bytes()), "/chosen", "bootargs", line)
    tree = _reserved(tree, place)
    memory_bytes = boot.machine.memory_mib << 20
    stage = uhi_stage(arch, read_image(boot.image, arch).entry, tree, memory_bytes=memory_bytes)
    below = Extent(name=_LOADER, address=stage.address, size_bytes=len(stage.content))
    refuse_overlaps((below, *_taken(boot)))
    digest = digest_of([known_digest(boot.image), hashlib.sha256(stage.content).hexdigest()])

    def make(work: StagingDirectory) -> dict[str, Any]:
        boot_through(boot, stage, work.entry)
        return {"arch": arch.name, "kind": _LOADER}

    entry = store.obtain(ROOTS, digest, make, label=_LOADER)
    return replace(
        boot,
        image=entry / KERNEL,
        # The tree has the command line; QEMU's bootloader passes none.
        cmdline="",
        root_words=words,
        loaded=(*boot.loaded, PlacedFile(file=entry / STAGE, address=stage.address)),
    )


def _reserved(tree: bytes, place: Extent) -> bytes:
    """Return a tree with the node of phram's driver (reserved-memory/phram.yaml)."""
    changed = reserve(tree, NAME, place.address, page_up(place.size_bytes), compatible="phram")
    node = f"/reserved-memory/{NAME}@{place.address:x}"
    return set_property(changed, node, "label", NAME)


@functools.cache
def _tree_of_qemu(boot: Boot) -> bytes:
    """Return the tree that QEMU makes for a machine, always the same.

    The seeds in it are new each time. In place of the one for random numbers there is a fixed one:
    a kernel without any waits until it has collected enough entropy.

    Raises:
        HarnessError: QEMU writes no tree.
    """
    with tempfile.TemporaryDirectory(prefix="kernelvm-") as directory:
        file = Path(directory, "tree")
        argv = qemu_argv(boot, Backends(console="null", channel="null"))
        done = run([*argv, "-machine", f"dumpdtb={file}"], timeout_s=QEMU_TIMEOUT_S, check=False)
        if not file.is_file():
            raise HarnessError("QEMU gives no device tree", failure(done))
        tree = file.read_bytes()
    tree = remove_property(tree, "/chosen", "kaslr-seed")
    if get_property(tree, "/chosen", "rng-seed") is not None:
        tree = set_property(tree, "/chosen", "rng-seed", bytes(32))
        tree = set_property(tree, "/chosen", "rng-seed", hashlib.sha256(tree).digest())
    return tree


def _stored_tree(store: Store, tree: bytes) -> Path:
    """Return the file of a tree that QEMU passes, with its own words about kernel and memory."""

    def make(work: StagingDirectory) -> dict[str, Any]:
        (work.entry / _TREE).write_bytes(tree)
        return {"kind": _TREE}

    return store.obtain(ROOTS, digest_of_bytes(tree), make, label=_TREE) / _TREE
