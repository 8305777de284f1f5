"""From the initramfs into a root file system of which the image keeps the store only."""

from __future__ import annotations

import dataclasses
import errno
import stat
from pathlib import Path

import pytest

from pytest_kernelvm import BootVm, Cell, Pseudofile, Root, Vm
from pytest_kernelvm.config.roots import KINDS, LEAST_ERASE_BYTES
from pytest_kernelvm.errors import BadInput, SyscallFailed, ToolMissing
from pytest_kernelvm.guest.root_image import find_tool
from pytest_kernelvm.session.cmdline import BUILTIN, TREE, assert_cmdline_from
from pytest_kernelvm.vm.bootpath.kexec import kexec_files
from pytest_kernelvm.vm.bootpath.root import announced_by
from pytest_kernelvm.vm.machine.start import boot_guest
from tests.vm.boot_variants import with_device_tree
from tests.vm.provoking import bare

pytestmark = [pytest.mark.slow, pytest.mark.spread("boot paths")]

BOOT_ID = "/proc/sys/kernel/random/boot_id"
KEPT, NOT_KEPT = "/persist/kept", "/var/not-kept"
PSEUDOFILES = (
    Pseudofile(path="/bin", kind="directory"),
    Pseudofile(path="/tmp", kind="directory", permissions=0o1777),
    Pseudofile(path="/var/log", kind="directory", permissions=0o750, owner=7, group=8),
    Pseudofile(path="/etc/hostname", kind="file", content=b"router\n", permissions=0o640, group=4),
    Pseudofile(path="/etc/large", kind="file", content=bytes(range(256)) * 37),
    Pseudofile(path="/etc/empty", kind="file"),
    Pseudofile(path="/etc/alias", kind="link", to="hostname"),
    Pseudofile(path="/etc/broken alias", kind="link", to="/nowhere/at all", owner=5),
    Pseudofile(path="/bin/su", kind="file", permissions=0o4755, content=b"#!\n", owner=1),
    Pseudofile(path="/run/control", kind="fifo", permissions=0o600),
    Pseudofile(path="/run/null", kind="character", permissions=0o666, major=1, minor=3),
    Pseudofile(path="/run/flash", kind="block", permissions=0o660, group=6, major=31, minor=0),
    Pseudofile(path="/run/far", kind="block", major=259, minor=0x1FF),
)


def a_root(cell: Cell, kind: str, **further: object) -> Root:
    """Return a root of a kind; skips without what makes it or tells the kernel of it."""
    root = Root(kind=kind, **further)  # type: ignore[arg-type]
    try:
        find_tool(kind)
    except ToolMissing as missing:
        pytest.skip(str(missing))
    if announced_by(root, cell.config.arch) == "device-tree":
        pytest.importorskip("libfdt", reason="pip install pytest-kernelvm[device-tree]")
    return root


def mounted(vm: Vm) -> dict[str, tuple[str, str, list[str]]]:
    """Return source, kind and options of what is mounted, by place."""
    lines = (line.split() for line in vm.read("/proc/mounts").splitlines())
    return {line[1]: (line[0], line[2], line[3].split(",")) for line in lines}


@pytest.mark.parametrize("kind", KINDS)
def test_boots_to_init_in_the_root(cell: Cell, kind: str, boot_vm: BootVm) -> None:
    vm = boot_vm(root=a_root(cell, kind), modules=["dummy"])
    mounts = mounted(vm)
    assert mounts["/persist"][:2] == ("/dev/mtdblock0", kind)
    assert mounts["/nix/store"][:2] == ("/dev/mtdblock0", kind)
    assert {"activate", "nix", "pseudofiles"} <= set(vm.list("/persist"))
    (item,) = vm.list("/nix/store")
    assert vm.read_bytes(f"/nix/store/{item}/init") == cell.programs.agent.read_bytes()
    assert vm.read_bytes("/proc/1/exe") == cell.programs.agent.read_bytes()
    # Nothing of the initramfs is in sight, and what the test asked for is.
    assert not vm.exists("/etc/modules")
    vm.modprobe("dummy")
    assert "dummy" in {module.name for module in vm.modules}


@pytest.mark.parametrize("kind", KINDS)
def test_what_can_be_written(cell: Cell, kind: str, boot_vm: BootVm) -> None:
    vm = boot_vm(root=a_root(cell, kind), modules=())
    vm.write(NOT_KEPT.replace("/var", ""), "in memory\n")
    if kind == "squashfs":
        with pytest.raises(SyscallFailed) as failed:
            vm.write(KEPT, "")
        assert failed.value.errno == errno.EROFS
        return
    content = bytes(range(256)) * 1024
    vm.write(KEPT, content)
    vm.syscall("sync")
    assert vm.read_bytes(KEPT) == content


def test_read_only_where_the_command_line_says_so(cell: Cell, boot_vm: BootVm) -> None:
    vm = boot_vm(root=a_root(cell, "ext4"), modules=(), cmdline="rw rootwait ro rootdelay=0")
    assert "ro" in mounted(vm)["/persist"][2]


def test_options_reach_the_file_system(cell: Cell, boot_vm: BootVm) -> None:
    vm = boot_vm(root=a_root(cell, "ext4", options="nodelalloc"), modules=())
    assert "nodelalloc" in mounted(vm)["/persist"][2]


def test_flash_by_its_name(cell: Cell, tmp_path: Path) -> None:
    """JFFS2 finds it without a block device, so there is none to wait for."""
    boot = cell.variant(root=a_root(cell, "jffs2")).bootable(modules=()).boot
    boot = dataclasses.replace(boot, cmdline=f"{boot.cmdline} root=mtd:rootfs rootwait")
    with bare(cell, tmp_path, boot) as vm:
        assert mounted(vm)["/persist"][:2] == ("mtd:rootfs", "jffs2")


def test_another_store(cell: Cell, boot_vm: BootVm) -> None:
    vm = boot_vm(root=a_root(cell, "squashfs", store="/opt/a/store"), modules=())
    assert "/opt/a/store" in mounted(vm)
    assert not vm.exists("/nix")


def test_pseudofiles(cell: Cell, boot_vm: BootVm) -> None:
    vm = boot_vm(root=a_root(cell, "squashfs", pseudofiles=PSEUDOFILES), modules=())
    formats = {
        "directory": stat.S_IFDIR,
        "file": stat.S_IFREG,
        "link": stat.S_IFLNK,
        "fifo": stat.S_IFIFO,
        "character": stat.S_IFCHR,
        "block": stat.S_IFBLK,
    }
    for each in PSEUDOFILES:
        found = vm.stat(each.path)
        assert stat.S_IFMT(found.mode) == formats[each.kind], each
        assert stat.S_IMODE(found.mode) == each.mode, each
        assert (found.uid, found.gid) == (each.owner, each.group), each
        if each.kind == "file":
            assert vm.read_bytes(each.path) == each.content
    assert vm.read("/etc/alias") == "router\n"
    assert vm.stat("/etc/broken alias").size_bytes == len("/nowhere/at all")
    # What a device is shows when it is used.
    vm.write("/run/null", "gone")
    assert vm.read("/run/null") == ""
    assert vm.read_bytes("/run/flash")[:4] == b"hsqs"
    with pytest.raises(SyscallFailed) as failed:
        vm.read("/run/far")
    assert failed.value.errno == errno.ENXIO


@pytest.mark.parametrize("kind", ["jffs2", "squashfs"])
def test_what_is_put_into_the_store(cell: Cell, kind: str, boot_vm: BootVm, tmp_path: Path) -> None:
    source = 'int main(void) { write(1, "hello from the store\\n", 21); return 0; }'
    program = tmp_path / "store/abc-hello-1.0/bin/hello"
    program.parent.mkdir(parents=True)
    program.write_bytes(cell.compile_program(source))
    program.chmod(0o555)
    (program.parent / "hi").symlink_to("hello")
    program.parent.chmod(0o555)
    link = Pseudofile(path="/bin", kind="link", to="/nix/store/abc-hello-1.0/bin")
    root = a_root(cell, kind, contents=tmp_path / "store", pseudofiles=(link,))
    vm = boot_vm(root=root, modules=())
    assert vm.succeed("/bin/hi") == "hello from the store\n"
    assert stat.S_IMODE(vm.stat("/bin/hello").mode) == 0o555
    assert stat.S_IMODE(vm.stat("/nix/store/abc-hello-1.0/bin").mode) == 0o555


def test_the_flash_device(cell: Cell, boot_vm: BootVm) -> None:
    """Its erase blocks are as asked for, and the kernel's own memory ends before."""
    root = a_root(cell, "jffs2", erase_bytes=128 << 10, free_bytes=2 << 20)
    vm = boot_vm(root=root, modules=())
    (line,) = vm.read("/proc/mtd").splitlines()[1:]
    _mtd, size, block, name = line.split()
    assert (int(block, 16), name) == (128 << 10, '"rootfs"')
    assert int(size, 16) >= 2 << 20
    assert int(size, 16) % (128 << 10) == 0
    (words,) = (word for word in vm.cmdline if word.startswith("phram.phram="))
    _name, start, length, erase = words.partition("=")[2].split(",")
    assert int(length, 0) == int(size, 16)
    assert int(erase, 0) == 128 << 10
    total_kib = int(vm.read("/proc/meminfo").split()[1])
    assert total_kib << 10 < int(start, 0) - cell.config.arch.memory_address


@pytest.mark.parametrize("kind", ["squashfs", "ext4"])
def test_a_node_in_the_device_tree(cell: Cell, kind: str, boot_vm: BootVm, tmp_path: Path) -> None:
    """The driver finds it by itself and maps it as memory; its blocks are a page."""
    root = a_root(cell, kind, by="device-tree")
    if not cell.config.arch.first_stage:
        vm = boot_vm(root=root, modules=())
        check_node(vm)
        return
    passed = with_device_tree(cell).variant(root=root)
    with boot_guest(passed.bootable(modules=(), cmdline="said.by=tree"), tmp_path) as vm:
        assert_cmdline_from(vm, TREE, BUILTIN)
        assert "said.by=tree" in vm.cmdline
        check_node(vm)


def check_node(vm: Vm) -> None:
    (name,) = (n for n in vm.list("/proc/device-tree/reserved-memory") if n.startswith("rootfs@"))
    node = f"/proc/device-tree/reserved-memory/{name}"
    assert vm.read(f"{node}/compatible") == "phram\0"
    (line,) = vm.read("/proc/mtd").splitlines()[1:]
    _mtd, _size, block, label = line.split()
    assert (int(block, 16), label) == (LEAST_ERASE_BYTES, '"rootfs"')
    assert not any(word.startswith(("mem=", "phram.")) for word in vm.cmdline)
    assert mounted(vm)["/persist"][0] == "/dev/mtdblock0"


def test_jffs2_needs_larger_blocks_than_a_node_has(cell: Cell) -> None:
    root = a_root(cell, "jffs2", by="device-tree")
    with pytest.raises(BadInput, match="JFFS2 does not take erase blocks of 4096 bytes"):
        cell.variant(root=root).bootable(modules=())


@pytest.mark.parametrize("kind", ["jffs2", "ext4"])
def test_what_was_written_survives_a_reboot(cell: Cell, kind: str, boot_vm: BootVm) -> None:
    """In the same QEMU, whose reset would put the old image into memory again: by kexec."""
    root = a_root(cell, kind, pseudofiles=(Pseudofile(path="/var", kind="directory"),))
    same = cell.variant(root=root)
    vm = boot_vm(root=root, modules=(), files=kexec_files(same.bootable().boot))
    before = vm.read(BOOT_ID)
    for content in ("first", "second"):
        vm.write(KEPT, content)
        vm.write(NOT_KEPT, content)
        vm.syscall("sync")
        vm.kexec(same)
        assert vm.read(BOOT_ID) != before
        before = vm.read(BOOT_ID)
        assert vm.read(KEPT) == content
        assert not vm.exists(NOT_KEPT)
        assert mounted(vm)["/persist"][1] == kind
    vm.power_off()


@pytest.mark.parametrize("kind", ["jffs2", "ext4"])
def test_restored_guests_have_their_own(cell: Cell, kind: str, new_vm: BootVm) -> None:
    root = a_root(cell, kind)
    for name in ("one", "other"):
        vm = new_vm(root=root, modules=())
        assert not [each for each in vm.list("/persist") if each.startswith("file-of-")]
        vm.write(f"/persist/file-of-{name}", name)
        assert vm.read(f"/persist/file-of-{name}") == name
