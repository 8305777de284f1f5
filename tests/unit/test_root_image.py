"""Images as the real tools make them, and the list that `activate` reads."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import struct
from pathlib import Path

import pytest

from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.config.model import Machine
from pytest_kernelvm.config.roots import KINDS, Pseudofile, Root
from pytest_kernelvm.errors import BadInput, ToolMissing
from pytest_kernelvm.guest import cpio
from pytest_kernelvm.guest.programs import Abi, GuestPrograms
from pytest_kernelvm.guest.root_image import (
    RootImage,
    find_tool,
    make_root_image,
    pseudofile_list,
)
from pytest_kernelvm.process import run
from pytest_kernelvm.progress import StreamProgress
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.vm.bootpath.kexec import kexec_image, with_root_of
from pytest_kernelvm.vm.bootpath.root import announced_by, boot_into, erase_bytes
from pytest_kernelvm.vm.qemu.argv import ON_TERMINAL, Boot, qemu_argv

CONTENTS = (
    cpio.file("init", b"\x7fELF agent", 0o755),
    cpio.link("sbin/insmod", "modprobe"),
    cpio.file("lib/modules/x.ko", bytes(range(256)) * 50),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", StreamProgress(io.StringIO()))


@pytest.fixture
def programs(tmp_path: Path) -> GuestPrograms:
    """Not run here, only packed."""
    files = {}
    for name in ("agent", "modprobe", "preinit", "activate", "terminal"):
        files[name] = tmp_path / name
        files[name].write_bytes(b"\x7fELF " + name.encode())
    abi = Abi(syscalls={}, errnos={}, open_flags={}, ioctls={})
    return GuestPrograms(digest="", abi=abi, **files)


def made(
    store: Store, programs: GuestPrograms, root: Root, arch: str = "mips", erase: int = 64 << 10
) -> RootImage:
    try:
        find_tool(root.kind)
    except ToolMissing as missing:
        pytest.skip(str(missing))
    return make_root_image(store, programs, root, ARCHES[arch], CONTENTS, erase_bytes=erase)


def test_the_list_of_pseudofiles() -> None:
    """Directories that nobody names come first; a device's number is as mknod(2) takes it."""
    listed = pseudofile_list(
        (
            Pseudofile(path="/var/log/a b", kind="file", content=b"x\ny", owner=1, group=2),
            Pseudofile(path="/var", kind="directory", permissions=0o1777),
            Pseudofile(path="/bin", kind="link", to="/nix/store/x/bin"),
            Pseudofile(path="/run/null", kind="character", major=1, minor=3, permissions=0o666),
            Pseudofile(path="/run/far", kind="block", major=259, minor=0x1FF),
            Pseudofile(path="/run/ctl", kind="fifo", permissions=0),
        )
    )
    assert listed == (
        b"l 777 0 0 16 bin\n/nix/store/x/bin\n"
        b"d 755 0 0 0 run\n\n"
        b"p 0 0 0 0 run/ctl\n\n"
        b"b 644 0 0 1115135 run/far\n\n"
        b"c 666 0 0 259 run/null\n\n"
        b"d 1777 0 0 0 var\n\n"
        b"d 755 0 0 0 var/log\n\n"
        b"f 644 1 2 3 var/log/a b\nx\ny\n"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_reproducible(
    store: Store, programs: GuestPrograms, tmp_path: Path, kind: str
) -> None:
    root = Root(kind=kind)
    image = made(store, programs, root)
    elsewhere = Store(tmp_path / "elsewhere", StreamProgress(io.StringIO()))
    again = made(elsewhere, programs, root)
    first, second = (hashlib.sha256(each.path.read_bytes()).digest() for each in (image, again))
    assert first == second
    assert image.path.parent.name == again.path.parent.name
    assert image.size_bytes == image.path.stat().st_size
    assert image.size_bytes % (64 << 10) == 0
    assert made(store, programs, root) == image


@pytest.mark.parametrize(("arch", "magic"), [("mips", b"\x19\x85"), ("mipsel", b"\x85\x19")])
def test_jffs2_has_the_guests_byte_order(
    store: Store, programs: GuestPrograms, arch: str, magic: bytes
) -> None:
    image = made(store, programs, Root(kind="jffs2"), arch)
    assert image.path.read_bytes()[:2] == magic


def test_free_bytes_are_left(store: Store, programs: GuestPrograms) -> None:
    none, small, large = (
        made(store, programs, Root(kind="jffs2", free_bytes=mib << 20)) for mib in (0, 1, 3)
    )
    assert none.size_bytes == 5 * (64 << 10)
    assert large.size_bytes - small.size_bytes == 2 << 20
    assert large.path.read_bytes()[small.size_bytes :] == b"\xff" * (2 << 20)


def test_squashfs_begins_as_such(store: Store, programs: GuestPrograms) -> None:
    image = made(store, programs, Root(kind="squashfs"), erase=4096)
    head = image.path.read_bytes()[:4]
    assert head == b"hsqs"
    assert image.size_bytes % 4096 == 0


def test_ext4_is_sound(store: Store, programs: GuestPrograms, tmp_path: Path) -> None:
    """Its files are root's, whoever made it, and from the beginning of time."""
    image = made(store, programs, Root(kind="ext4"))
    copy = tmp_path / "image"
    copy.write_bytes(image.path.read_bytes())
    run([find_tool("ext4", "e2fsck"), "-f", "-n", copy], timeout_s=60)
    told = run([find_tool("ext4", "debugfs"), "-R", "stat /activate", copy], timeout_s=60).stdout
    assert "User:     0   Group:     0" in told
    assert "Mode:  0755" in told
    assert "ctime: 0x00000000" in told


@pytest.mark.parametrize("kind", ["squashfs"])
def test_a_tool_that_is_missing(
    store: Store, programs: GuestPrograms, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ToolMissing, match="apt-get install squashfs-tools"):
        make_root_image(
            store, programs, Root(kind=kind), ARCHES["mips"], CONTENTS, erase_bytes=4096
        )


def test_pseudofiles_in_the_way_of_the_guests_own(store: Store, programs: GuestPrograms) -> None:
    root = Root(kind="squashfs", pseudofiles=(Pseudofile(path="/sbin", kind="link", to="/bin"),))
    with pytest.raises(BadInput, match="/sbin/insmod is below /sbin, which is no directory"):
        made(store, programs, root)


def test_contents_that_no_store_has_are_refused(
    store: Store, programs: GuestPrograms, tmp_path: Path
) -> None:
    directory = tmp_path / "contents"
    directory.mkdir()
    os.mkfifo(directory / "fifo")
    with pytest.raises(BadInput, match="neither file nor directory nor link"):
        made(store, programs, Root(kind="squashfs", contents=directory))


def a_boot(tmp_path: Path, arch: str, initramfs_bytes: int = 100) -> Boot:
    image, initramfs = tmp_path / "kernel", tmp_path / "initramfs"
    image.write_bytes(bytes(5 << 20))
    initramfs.write_bytes(bytes(initramfs_bytes))
    row = ARCHES[arch]
    return Boot(
        arch=row,
        machine=Machine(memory_mib=128, cpu=row.cpu, fast_boot=True),
        image=image,
        initramfs=initramfs,
        cmdline="a=b",
    )


def an_image(tmp_path: Path, size_bytes: int) -> RootImage:
    path = tmp_path / f"image-{size_bytes}"
    path.write_bytes(bytes(size_bytes))
    return RootImage(path=path, size_bytes=size_bytes)


def test_the_command_line_of_a_malta(store: Store, tmp_path: Path) -> None:
    root = Root(kind="jffs2", options="compr=none")
    image = an_image(tmp_path, 0x110000)
    boot = boot_into(store, a_boot(tmp_path, "mips"), root, image)
    assert boot.fixed_initramfs
    assert boot.root_words == (
        "mem=129984K phram.phram=rootfs,0x7ef0000,0x110000,0x10000 "
        "root=/dev/mtdblock0 rootfstype=jffs2 rootflags=compr=none"
    )
    assert boot.cmdline == (f"rd_start=0xffffffff86000000 rd_size=0x200000 a=b {boot.root_words}")
    assert (boot.root, boot.root_address) == (image.path, 0x7EF0000)
    argv = qemu_argv(boot, ON_TERMINAL)
    assert f"loader,file={image.path},addr=0x7ef0000,force-raw=on" in argv


def test_memory_that_does_not_begin_at_0(store: Store, tmp_path: Path) -> None:
    root = Root(kind="ext4", by="cmdline", erase_bytes=4096)
    boot = boot_into(store, a_boot(tmp_path, "aarch64"), root, an_image(tmp_path, 1 << 20))
    assert "mem=130048K phram.phram=rootfs,0x47f00000,0x100000,0x1000 " in boot.cmdline


@pytest.mark.parametrize(
    ("arch", "size_mib", "fits"),
    [("mips", 30, True), ("mips", 31, False), ("aarch64", 59, True), ("aarch64", 61, False)],
)
def test_an_image_without_room_is_refused(
    store: Store, tmp_path: Path, arch: str, size_mib: int, fits: bool
) -> None:
    """The initramfs is in the way, on a Malta at its fixed address."""
    root, boot = Root(kind="ext4", by="cmdline"), a_boot(tmp_path, arch)
    image = an_image(tmp_path, size_mib << 20)
    if fits:
        assert boot_into(store, boot, root, image).root_words
        return
    with pytest.raises(BadInput, match="is not in memory's end"):
        boot_into(store, boot, root, image)


def test_a_command_line_that_would_be_cut_off(store: Store, tmp_path: Path) -> None:
    root, image = Root(kind="squashfs"), an_image(tmp_path, 4096)
    boot = dataclasses.replace(a_boot(tmp_path, "mips"), cmdline="x" * 120)
    with pytest.raises(BadInput, match=r"command line has 26[0-9] bytes"):
        boot_into(store, boot, root, image)


def test_an_initramfs_that_is_too_large_for_its_fixed_address(store: Store, tmp_path: Path) -> None:
    boot = a_boot(tmp_path, "mips", initramfs_bytes=(2 << 20) + 1)
    with pytest.raises(BadInput, match="finds 2097152 bytes at a fixed address"):
        boot_into(store, boot, Root(kind="squashfs"), an_image(tmp_path, 4096))


@pytest.mark.parametrize(
    ("arch", "kind", "by", "erase"),
    [
        ("mips", "jffs2", "cmdline", 64 << 10),
        ("mipsel", "ext4", "cmdline", 64 << 10),
        ("aarch64", "squashfs", "device-tree", 4096),
        ("aarch64", "jffs2", "cmdline", 64 << 10),
    ],
)
def test_how_the_kernel_learns_of_the_root(arch: str, kind: str, by: str, erase: int) -> None:
    root = Root(kind=kind)
    assert announced_by(root, ARCHES[arch]) == by
    assert erase_bytes(root, ARCHES[arch]) == erase
    assert announced_by(dataclasses.replace(root, by="cmdline"), ARCHES[arch]) == "cmdline"


def test_a_second_kernel_gets_the_root_of_the_first(store: Store, tmp_path: Path) -> None:
    root = Root(kind="ext4")
    plain = a_boot(tmp_path, "mips")
    first = boot_into(store, plain, root, an_image(tmp_path, 1 << 20))
    second = boot_into(store, plain, root, an_image(tmp_path, 2 << 20))
    assert second.cmdline != first.cmdline
    assert with_root_of(second, first) == first
    assert with_root_of(plain, first) == plain
    with pytest.raises(BadInput, match="not in this guest's memory"):
        with_root_of(second, plain)


def test_the_first_tree_in_an_image() -> None:
    libfdt = pytest.importorskip("libfdt", reason="pip install pytest-kernelvm[device-tree]")
    from pytest_kernelvm.vm.bootpath.device_tree import (
        get_property,
        remove_property,
        set_property,
        tree_in,
    )

    tree = set_property(bytes(libfdt.Fdt.create_empty_tree(256).as_bytearray()), "/", "a", "b")
    tree = set_property(tree, "/", "compatible", "x,y")
    false = struct.pack(">II", 0xD00DFEED, 12) + bytes(40)
    assert tree_in(b"abc" + false + tree + bytes(100)) == tree
    with pytest.raises(BadInput, match="no device tree"):
        tree_in(false)
    assert get_property(remove_property(tree, "/", "a"), "/", "a") is None
    assert remove_property(tree, "/", "none") == tree


def test_what_is_behind_an_archive_is_zero(tmp_path: Path) -> None:
    """The line announces 2 MiB, and memory that was used before is not empty."""
    boot = dataclasses.replace(a_boot(tmp_path, "mips"), fixed_initramfs=True)
    head = struct.pack(">4sBBB9xHHIIII", b"\x7fELF", 1, 2, 1, 2, 8, 1, 0x80100000, 52, 0)
    head += struct.pack(">IHHHHHH", 0, 52, 32, 1, 0, 0, 0)
    load = struct.pack(">8I", 1, 84, 0x80100000, 0x80100000, 4, 8, 7, 4)
    boot.image.write_bytes(head + load + b"code")
    _kernel, _stage, archive = kexec_image(boot).segments
    assert archive.room_bytes == 2 << 20
    assert kexec_image(dataclasses.replace(boot, fixed_initramfs=False)).segments[2].room_bytes == 0
