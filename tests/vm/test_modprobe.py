"""What modprobe does, and what the kernel does with it."""

import errno
from pathlib import Path
from typing import Unpack

import pytest

from pytest_kernelvm import BootVm, Cell, Closure, Vm
from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.config.load import read_config
from pytest_kernelvm.config.model import USERLANDS
from pytest_kernelvm.errors import BadInput, SyscallFailed, ToolMissing
from pytest_kernelvm.process import run
from pytest_kernelvm.session.guest_options import GuestOptions

pytestmark = [pytest.mark.slow, pytest.mark.every_cell]

AF_KEY, PF_KEY_V2 = 15, 2
AF_PACKET = 17
SOCK_RAW = 3


@pytest.fixture(params=USERLANDS)
def userland(request: pytest.FixtureRequest) -> str:
    """Whose modprobe: all tests here are made with each."""
    return str(request.param)


@pytest.fixture
def new_vm(new_vm: BootVm, userland: str) -> BootVm:
    def boot(**options: Unpack[GuestOptions]) -> Vm:
        try:
            return new_vm(**(options | {"userland": userland}))
        except (ToolMissing, BadInput) as error:
            if userland == "none":
                raise
            pytest.skip(error.summary)

    return boot


@pytest.fixture
def vm(new_vm: BootVm) -> Vm:
    return new_vm()


def names(vm: Vm) -> list[str]:
    return [module.name for module in vm.modules]


@pytest.mark.kernelvm(modules=["nf_log_syslog"])
@pytest.mark.parametrize("name", ["nf_log_syslog", "nf-log-syslog", "nf_log-syslog"])
def test_dash_and_underscore_are_the_same(vm: Vm, name: str) -> None:
    vm.modprobe(name)
    assert names(vm) == ["nf_log_syslog"]
    vm.modprobe("-r", name)
    assert names(vm) == []


def parameter(vm: Vm, module: str, name: str) -> str:
    return vm.read(f"/sys/module/{module}/parameters/{name}").strip()


@pytest.mark.kernelvm(modules=["loop"])
class TestOptions:
    def test_of_the_vm_config(self, vm: Vm) -> None:
        vm.modprobe("loop")
        assert parameter(vm, "loop", "max_loop") == "3"

    @pytest.mark.kernelvm(options={"loop": "max_part=7"})
    def test_of_the_test_are_added(self, vm: Vm) -> None:
        vm.modprobe("loop")
        assert parameter(vm, "loop", "max_part") == "7"
        assert parameter(vm, "loop", "max_loop") == "3"

    def test_on_modprobes_command_line_win(self, vm: Vm) -> None:
        vm.modprobe("loop", "max_loop=5")
        assert parameter(vm, "loop", "max_loop") == "5"

    @pytest.mark.kernelvm(cmdline="loop.max_part=15")
    def test_on_the_kernels_command_line_count(self, vm: Vm) -> None:
        vm.modprobe("loop")
        assert parameter(vm, "loop", "max_part") == "15"

    def test_wrong_options_are_reported(self, vm: Vm, userland: str) -> None:
        result = vm.fail("modprobe", "loop", "max_loop=many")
        assert result.status == 1
        said = {"busybox": "can't load module loop (kernel/drivers/block/loop.ko)"}
        told = said.get(userland, "could not insert 'loop'")
        assert f"{told}: Invalid argument\n" in result.errors
        assert vm.dmesg.matching("loop: `many' invalid for parameter `max_loop'")


@pytest.mark.kernelvm(modules=["dummy"])
def test_loading_twice_is_no_error(vm: Vm, userland: str) -> None:
    vm.modprobe("dummy")
    vm.modprobe("dummy")
    assert names(vm) == ["dummy"]
    result = vm.fail("modprobe", "--first-time", "dummy")
    # busybox has no such option.
    said = {"busybox": "unrecognized option '--first-time'"}
    assert said.get(userland, "Module already in kernel") in result.errors
    assert names(vm) == ["dummy"]


@pytest.mark.kernelvm(modules=["dummy"])
def test_missing_module(vm: Vm, closure: Closure, userland: str) -> None:
    result = vm.fail("modprobe", "nosuch")
    assert result.status == 1
    said = {"busybox": "modprobe: module nosuch not found in modules.dep\n"}
    where = f"/lib/modules/{closure.release}"
    told = f"modprobe: FATAL: Module nosuch not found in directory {where}\n"
    assert result.errors == said.get(userland, told)
    quiet = vm.fail("modprobe", "-q", "nosuch")
    assert (quiet.status, quiet.errors) == (1, "")


@pytest.mark.kernelvm(modules=["af_packet"])
def test_module_in_use(vm: Vm, userland: str) -> None:
    vm.modprobe("af_packet")
    socket = vm.syscall("socket", AF_PACKET, SOCK_RAW, 0)
    assert vm.modules[0].use_count > 0
    refused = vm.fail("modprobe", "-r", "af_packet")
    # busybox does not look at the use count; it asks the kernel, which says EAGAIN.
    said = {"busybox": "can't unload module 'af_packet': Resource temporarily unavailable"}
    assert said.get(userland, "Module af_packet is in use") in refused.errors
    assert said.get(userland, "in use") in vm.fail("rmmod", "af_packet").errors
    vm.syscall("close", socket)
    vm.modprobe("-r", "af_packet")
    assert names(vm) == []


def needed(vm: Vm) -> list[str]:
    """Return what is loaded, but for libcrc32c's softdep: busybox leaves that and minds nothing."""
    return [name for name in names(vm) if name != "crc32c_generic"]


@pytest.mark.kernelvm(modules=["nft_hash", "nft_log"])
def test_remove_with_dependencies(vm: Vm, userland: str) -> None:
    """kmod tries each dependency once, the deepest first (tools/modprobe.c, rmmod_do_module)."""
    vm.modprobe("nft_hash")
    assert {"nf_tables", "nfnetlink"} <= set(names(vm))
    if userland == "busybox":
        # It removes all that it can, over and over, and fails if something has to stay.
        removed = vm.run("modprobe", "-r", "nft_hash")
        assert removed.status == (1 if needed(vm) else 0)
        assert {"nft_hash", "nf_tables", "nfnetlink"}.isdisjoint(names(vm))
        return
    vm.modprobe("-r", "nft_hash")
    assert {"nft_hash", "nf_tables"}.isdisjoint(names(vm))
    assert "nfnetlink" in names(vm)
    vm.modprobe("-r", "nfnetlink")
    assert "nfnetlink" not in names(vm)


@pytest.mark.kernelvm(modules=["nft_hash", "nft_log"])
def test_remove_leaves_what_others_need(vm: Vm, userland: str) -> None:
    vm.modprobe("-a", "nft_hash", "nft_log")
    # busybox fails because something has to stay.
    removed = vm.run("modprobe", "-r", "nft_hash")
    assert removed.status == (1 if userland == "busybox" else 0)
    assert "nf_tables" in names(vm)
    assert "nft_hash" not in names(vm)
    refused = vm.fail("rmmod", "nf_tables")
    said = {"busybox": "can't unload module 'nf_tables': Resource temporarily unavailable"}
    assert said.get(userland, "Module nf_tables is in use by: nft_log") in refused.errors
    removed = vm.run("modprobe", "-r", "nft_log")
    assert removed.status == (1 if userland == "busybox" and needed(vm) else 0)
    assert "nf_tables" not in names(vm)


def test_module_of_another_architecture(
    new_vm: BootVm, cell: Cell, tmp_path: Path, userland: str
) -> None:
    """The kernel refuses it by its ELF header (kernel/module/main.c, elf_validity_check)."""
    ours = cell.config.arch
    other = next(
        arch
        for arch in ARCHES.values()
        if (arch.elf_machine, arch.endianness) != (ours.elf_machine, ours.endianness)
    )
    compiler = f"{other.toolchain_prefix}gcc"
    stranger = tmp_path / "stranger.ko"
    run(
        [compiler, "-c", "-x", "c", "-o", stranger, "-"],
        stdin=b"int init_module(void) { return 0; }",
        timeout_s=60,
    )
    vm = new_vm(modules=["dummy"], files={"/stranger.ko": stranger.read_bytes()})
    result = vm.fail("insmod", "/stranger.ko")
    said = {"busybox": "can't insert '/stranger.ko': invalid module format"}
    told = "could not insert module /stranger.ko: Invalid module format"
    assert said.get(userland, told) in result.errors
    assert names(vm) == []


def test_module_of_another_kernel(new_vm: BootVm, cell: Cell) -> None:
    """The kernel compares struct module's size and vermagic (kernel/module/main.c)."""
    siblings = read_config(cell.config.file)
    other = Cell(next(each for each in siblings if each.id != cell.config.id), cell.store)
    module = other.closure(["dummy"]).files[0]
    vm = new_vm(modules=["loop"], files={"/dummy.ko": module.read_bytes()})
    result = vm.fail("insmod", "/dummy.ko")
    assert "invalid module format" in result.errors.lower()
    assert vm.dmesg.matching(
        f"dummy: version magic '{other.kernel.release} .*should be '{cell.kernel.release} "
        "|module dummy: .gnu.linkonce.this_module section size must match"
    )
    assert names(vm) == []


def test_module_that_differs_in_vermagic_alone(new_vm: BootVm, cell: Cell) -> None:
    """The kernel compares vermagic (kernel/module/main.c, check_modinfo)."""
    content = cell.closure(["dummy"]).files[0].read_bytes()
    ours = f"vermagic={cell.kernel.release} ".encode()
    assert content.count(ours) == 1
    other = ours.replace(b"=6.", b"=5.")
    vm = new_vm(modules=["dummy"], files={"/dummy.ko": content.replace(ours, other)})
    result = vm.fail("insmod", "/dummy.ko")
    assert "invalid module format" in result.errors.lower()
    release = cell.kernel.release
    assert vm.dmesg.matching(f"dummy: version magic '5{release[1:]} .*should be '{release} ")
    assert names(vm) == []


@pytest.mark.kernelvm(modules=["af_packet", "af_key"])
class TestKernelAsks:
    """request_module() runs /sbin/modprobe -q -- ALIAS (kernel/module/kmod.c)."""

    def test_for_a_protocol_family(self, vm: Vm) -> None:
        assert names(vm) == []
        vm.syscall("socket", AF_PACKET, SOCK_RAW, 0)
        assert names(vm) == ["af_packet"]
        vm.syscall("socket", AF_KEY, SOCK_RAW, PF_KEY_V2)
        assert names(vm)[0] == "af_key"

    @pytest.mark.kernelvm(modules=["loop"])
    def test_the_kernel_gets_no_module_that_is_not_packed(self, vm: Vm) -> None:
        with pytest.raises(SyscallFailed) as refused:
            vm.syscall("socket", AF_PACKET, SOCK_RAW, 0)
        assert refused.value.errno == errno.EAFNOSUPPORT
        assert names(vm) == []

    @pytest.mark.kernelvm(blacklist=["af_packet"])
    def test_the_kernels_requests_obey_the_blacklist(self, vm: Vm) -> None:
        """modprobe.d(5): a blacklist hides aliases; by its own name a module still loads."""
        with pytest.raises(SyscallFailed):
            vm.syscall("socket", AF_PACKET, SOCK_RAW, 0)
        assert names(vm) == []
        vm.modprobe("af_packet")
        assert names(vm) == ["af_packet"]
