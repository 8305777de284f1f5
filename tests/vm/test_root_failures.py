"""What preinit and activate say when they cannot go on, and the verdict that has it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_kernelvm import BootVm, Cell, Pseudofile, Vm
from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.errors import BootHang, GuestPanic
from pytest_kernelvm.guest import cpio
from pytest_kernelvm.guest.root_image import make_root_image, pseudofile_list
from pytest_kernelvm.vm.qemu.argv import Boot
from tests.vm.provoking import bare
from tests.vm.test_root import a_root

pytestmark = [pytest.mark.slow, pytest.mark.spread("boot paths")]

Damage = Callable[[bytes], bytes]


def missing(image: bytes) -> bytes:
    """Return memory as it is without an image."""
    return bytes(len(image))


def erased(image: bytes) -> bytes:
    """Return flash in which nothing was ever written."""
    return b"\xff" * len(image)


def corrupt(image: bytes) -> bytes:
    """Return an image whose first pages, with what describes it, are gone."""
    return b"\xa5" * 8192 + image[8192:]


def image_in(boot: Boot) -> Path:
    assert boot.root
    return boot.root


@pytest.fixture
def panic(cell: Cell, tmp_path: Path) -> Callable[[Boot], str]:
    """Boots what must panic and returns the verdict in full."""

    def give(boot: Boot) -> str:
        directory = tmp_path / "guest"
        directory.mkdir()
        with (
            pytest.raises(GuestPanic, match="Attempted to kill init") as failed,
            bare(cell, directory, boot),
        ):
            pass
        assert "init ended with status 1" in failed.value.evidence.next_step
        return str(failed.value)

    return give


@pytest.mark.parametrize(
    ("kind", "damage", "says"),
    [
        ("jffs2", missing, "mount /dev/mtdblock0 as jffs2: EIO"),
        ("jffs2", corrupt, "mount /dev/mtdblock0 as jffs2: EIO"),
        ("jffs2", erased, "mount /target/persist/nix/store on /target/nix/store: ENOENT"),
        ("squashfs", missing, "mount /dev/mtdblock0 as squashfs: EINVAL"),
        ("squashfs", corrupt, "mount /dev/mtdblock0 as squashfs: EINVAL"),
        ("ext4", missing, "mount /dev/mtdblock0 as ext4: EINVAL"),
        ("ext4", corrupt, "mount /dev/mtdblock0 as ext4: EINVAL"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_no_image_or_a_damaged_one(
    cell: Cell,
    kind: str,
    damage: Damage,
    says: str,
    panic: Callable[[Boot], str],
    tmp_path: Path,
) -> None:
    boot = cell.variant(root=a_root(cell, kind)).bootable(modules=()).boot
    damaged = tmp_path / "damaged"
    damaged.write_bytes(damage(image_in(boot).read_bytes()))
    assert f"preinit: cannot {says}\n" in panic(dataclasses.replace(boot, root=damaged))


def test_jffs2_of_the_other_byte_order(cell: Cell, panic: Callable[[Boot], str]) -> None:
    """The kernel says it of every node that it meets, and the verdict once."""
    root = a_root(cell, "jffs2")
    arch = cell.config.arch
    boot = cell.variant(root=root).bootable(modules=()).boot
    wrong = make_root_image(
        cell.store, cell.programs, root, other_order(arch), (), erase_bytes=root.erase_bytes
    )
    verdict = panic(dataclasses.replace(boot, root=wrong.path))
    assert "preinit: cannot mount /dev/mtdblock0 as jffs2: EIO\n" in verdict
    assert "next: the JFFS2 image is of the other byte order; " in verdict


def other_order(arch: Arch) -> Arch:
    return dataclasses.replace(arch, endianness="little" if arch.endianness == "big" else "big")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("rootfstype=xfs", "mount /dev/mtdblock0 as xfs: ENODEV"),
        ("rootfstype=xfs,squashfs,btrfs", ""),
        ("root=/dev/mtdblock7", "mount /dev/mtdblock7 as squashfs: ENOENT"),
        ("rootfstype=", "find rootfstype= on the command line"),
        ("root=", "find root= on the command line"),
        ("init=/no/such", "run /no/such: ENOENT"),
        ("init=/etc", "run /etc: EACCES"),
        ("rootflags=nonsense", "mount /dev/mtdblock0 as squashfs: EINVAL"),
        ("-- root=/dev/mtdblock7", ""),
    ],
)
def test_words_of_the_command_line(
    cell: Cell, words: str, says: str, panic: Callable[[Boot], str], tmp_path: Path
) -> None:
    """Of several the last one counts; of several file systems the first that can."""
    root = a_root(cell, "squashfs", pseudofiles=(Pseudofile(path="/etc", kind="directory"),))
    boot = cell.variant(root=root).bootable(modules=()).boot
    boot = dataclasses.replace(boot, cmdline=f"{boot.cmdline} {words}")
    if says:
        assert f"preinit: cannot {says}\n" in panic(boot)
        return
    with bare(cell, tmp_path, boot) as vm:
        assert "squashfs" in vm.read("/proc/mounts")


def test_without_the_cookie(cell: Cell, panic: Callable[[Boot], str]) -> None:
    """The words are the bootloader's, and without the cookie nothing obeys them."""
    boot = cell.variant(root=a_root(cell, "squashfs")).bootable(modules=(), cookie=False).boot
    assert "preinit: cannot find root= on the command line\n" in panic(boot)


def test_the_store_of_another_image(cell: Cell, panic: Callable[[Boot], str]) -> None:
    root = a_root(cell, "squashfs")
    boot = cell.variant(root=root).bootable(modules=()).boot
    other = dataclasses.replace(root, store="/opt/store")
    elsewhere = cell.variant(root=other).bootable(modules=()).boot
    verdict = panic(dataclasses.replace(boot, initramfs=elsewhere.initramfs))
    assert (
        "preinit: cannot mount /target/persist/opt/store on /target/opt/store: ENOENT\n" in verdict
    )


def test_a_device_that_never_comes(cell: Cell, tmp_path: Path) -> None:
    boot = cell.variant(root=a_root(cell, "squashfs")).bootable(modules=()).boot
    boot = dataclasses.replace(boot, cmdline=f"{boot.cmdline} root=/dev/never rootwait")
    with pytest.raises(BootHang), bare(cell, tmp_path, boot, boot_s=10.0):
        pass


def test_a_module_that_is_not_there(
    cell: Cell, panic: Callable[[Boot], str], tmp_path: Path
) -> None:
    """modprobe's own words are in the log as well."""
    boot = cell.variant(root=a_root(cell, "squashfs")).bootable(modules=()).boot
    assert boot.initramfs
    entries = {each.path: each for each in cpio.entries_of(boot.initramfs.read_bytes())}
    entries["etc/modules"] = cpio.file("etc/modules", b"phram\nno_such_module\n")
    changed = tmp_path / "initramfs"
    changed.write_bytes(cpio.archive(entries.values()))
    verdict = panic(dataclasses.replace(boot, initramfs=changed))
    assert "preinit: cannot go on: /sbin/modprobe ended with status 1\n" in verdict
    assert "Module no_such_module not found" in verdict


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        (
            b"l 777 0 0 ",
            b"q 777 0 0 ",
            "activate: cannot make sense of persist/pseudofiles: EINVAL",
        ),
        (b"ELF of activate", b"", "preinit: cannot run /target/persist/activate: ENOEXEC"),
    ],
    ids=["its list", "itself"],
)
def test_activate_that_is_damaged(
    cell: Cell,
    before: bytes,
    after: bytes,
    says: str,
    panic: Callable[[Boot], str],
    tmp_path: Path,
) -> None:
    """It says what it could not do, and preinit that it did not go well."""
    boot = cell.variant(root=a_root(cell, "ext4")).bootable(modules=()).boot
    whole = image_in(boot).read_bytes()
    if not after:
        before = cell.programs.activate.read_bytes()[:1024]
        after = b"\x7fELG" + before[4:]
    assert before in whole
    damaged = tmp_path / "damaged"
    damaged.write_bytes(whole.replace(before, after, 1))
    verdict = panic(dataclasses.replace(boot, root=damaged))
    assert f"{says}\n" in verdict
    assert "preinit: cannot go on: /target/persist/activate ended with status 1\n" in verdict


LISTS = [
    (b"f 644 0 0 5 a/b\nhello\n", 1, "activate: cannot make /a/b: ENOENT\n"),
    (b"d 755 0 0 0 a\n\nf 644 0 0 2 a\nhi\n", 1, "activate: cannot make /a: EEXIST\n"),
    (b"l 777 0 0 1 a\nb\nl 777 0 0 1 a\nb\n", 1, "activate: cannot make /a: EEXIST\n"),
    (b"d 755 0 0 0 a\n\nd 700 0 0 0 a\n\n", 0, ""),
    (b"f 644 0 0 5 a\nhell", 1, "activate: cannot make sense of persist/pseudofiles: EINVAL\n"),
    (b"f 644 0 0 5 a\nhello", 1, "activate: cannot make sense of persist/pseudofiles: EINVAL\n"),
    (b"x 644 0 0 5 a\n\n", 1, "activate: cannot make sense of persist/pseudofiles: EINVAL\n"),
    (b"f 648 0 0 5 a\n\n", 1, "activate: cannot make sense of persist/pseudofiles: EINVAL\n"),
    (b"f 644 0 0 0 " + b"a" * 5000, 1, "sense of persist/pseudofiles: EINVAL\n"),
    (b"f 644 0 0 0 " + b"a" * 300 + b"\n\n", 1, "ENAMETOOLONG"),
    (b"", 0, ""),
]


def test_activate(cell: Cell, boot_vm: BootVm) -> None:
    """Alone, with lists that no vm-config makes."""
    vm = boot_vm(modules=(), files={"/activate": cell.programs.activate.read_bytes()})
    for number, (content, status, says) in enumerate(LISTS):
        made = run_activate(vm, f"/made{number}", content)
        assert made[0] == status, (content, made)
        assert says in made[1] if says else not made[1]
    result = vm.run("/activate", "/nowhere")
    assert result.errors.endswith("activate: cannot enter /nowhere: ENOENT\n")


def run_activate(vm: Vm, directory: str, content: bytes) -> tuple[int, str]:
    for path in (directory, f"{directory}/persist"):
        vm.mkdir(path)
    vm.write(f"{directory}/persist/pseudofiles", content)
    result = vm.run("/activate", directory)
    return result.status, result.errors


def test_what_the_host_lists_is_what_activate_reads(cell: Cell, boot_vm: BootVm) -> None:
    vm = boot_vm(modules=(), files={"/activate": cell.programs.activate.read_bytes()})
    listed = pseudofile_list((Pseudofile(path="/a b/c", kind="file", content=b"\n\n x\0"),))
    assert run_activate(vm, "/made", listed) == (0, "")
    assert vm.read_bytes("/made/a b/c") == b"\n\n x\0"
