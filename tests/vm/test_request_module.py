"""The kernel runs modprobe by itself: early, often, and many at once."""

import errno
import os
import re
import stat

import pytest

from pytest_kernelvm import BootVm, Cell, Vm
from pytest_kernelvm.errors import SyscallFailed
from tests.vm.external import EXTERNAL

pytestmark = [pytest.mark.slow, pytest.mark.every_cell]

AT_FDCWD = -100

# test_kmod's ways to ask (lib/test_kmod.c, enum kmod_test_case), and where it is talked to.
BY_NAME, BY_FILESYSTEM = 1, 2
DEVICE = "/sys/devices/virtual/misc/test_kmod0"

# What modprobe's status 1 becomes, as wait(2) has it.
NOT_FOUND = 256

# The kernel runs so many modprobes at once; the rest waits, for 5 s at most
# (kernel/module/kmod.c, MAX_KMOD_CONCURRENT, MAX_KMOD_ALL_BUSY_TIMEOUT).
AT_ONCE = 50
TRIGGERS = 1000
TRIGGERS_A_ROUND = 125


def names(vm: Vm) -> set[str]:
    return {module.name for module in vm.modules}


def parameter(vm: Vm, module: str, name: str) -> str:
    return vm.read(f"/sys/module/{module}/parameters/{name}").strip()


def forks(vm: Vm) -> int:
    """Return how many processes there have been."""
    (line,) = (line for line in vm.read("/proc/stat").splitlines() if line.startswith("processes "))
    return int(line.split()[1])


def trigger(vm: Vm, threads: int) -> int:
    """Have so many threads of the kernel ask at once; return the result of the worst."""
    vm.write(f"{DEVICE}/config_num_threads", str(threads))
    vm.write(f"{DEVICE}/trigger_config", "1")
    return int(vm.read(f"{DEVICE}/test_result"))


@pytest.mark.slow
@pytest.mark.kernelvm(external=EXTERNAL, modules=["test_kmod", "test_module", "plainfs", "failing"])
class TestManyAtOnce:
    """The kernel's own stress, as tools/testing/selftests/kmod/kmod.sh uses it."""

    def test_thousand_by_name(self, vm: Vm) -> None:
        vm.modprobe("test_kmod")
        vm.write(f"{DEVICE}/config_test_driver", "test_module")
        vm.write(f"{DEVICE}/config_test_case", str(BY_NAME))
        before = forks(vm)
        for _round in range(TRIGGERS // TRIGGERS_A_ROUND):
            assert trigger(vm, TRIGGERS_A_ROUND) == 0
            assert "test_module" in names(vm)
            vm.succeed("rmmod", "test_module")
        # Each is a thread that asks and a modprobe that answers.
        assert forks(vm) - before >= 2 * TRIGGERS
        assert not vm.dmesg.matching("kmod busy|test_kmod.*(fail|Unexpected)")
        vm.modprobe("-r", "test_kmod")
        assert vm.modules == ()

    def test_thousand_at_once(self, vm: Vm, cell: Cell) -> None:
        """Some may wait too long for their turn, which the kernel says; none is lost or stuck."""
        vm.modprobe("test_kmod")
        vm.write(f"{DEVICE}/config_test_driver", "test_module")
        vm.write(f"{DEVICE}/config_test_case", str(BY_NAME))
        before = forks(vm)
        worst = trigger(vm, TRIGGERS)
        assert forks(vm) - before >= TRIGGERS
        busy = vm.dmesg.matching("kmod busy with 50 threads")
        assert worst == (-cell.programs.abi.errnos["ETIME"] if busy else 0)
        assert "test_module" in names(vm)
        vm.succeed("rmmod", "test_module")
        assert trigger(vm, AT_ONCE) == 0
        vm.succeed("rmmod", "test_module")
        vm.modprobe("-r", "test_kmod")
        assert vm.modules == ()

    def test_more_than_the_kernel_lets_run(self, vm: Vm) -> None:
        """kmod.sh's 0008: the limit and a sixth more."""
        vm.modprobe("test_kmod")
        vm.write(f"{DEVICE}/config_test_driver", "test_module")
        vm.write(f"{DEVICE}/config_test_case", str(BY_NAME))
        assert trigger(vm, AT_ONCE + AT_ONCE // 6) == 0
        assert "test_module" in names(vm)

    def test_by_filesystem(self, vm: Vm) -> None:
        """kmod.sh's 0009: the limit and a quarter more; each asks for fs-plainfs."""
        vm.modprobe("test_kmod")
        vm.write(f"{DEVICE}/config_test_fs", "plainfs")
        vm.write(f"{DEVICE}/config_test_case", str(BY_FILESYSTEM))
        assert trigger(vm, AT_ONCE + AT_ONCE // 4) == 0
        assert "plainfs" in vm.read("/proc/filesystems")

    @pytest.mark.parametrize("name", ["nosuch", "failing"])
    def test_a_request_for_an_unknown_module_fails(self, vm: Vm, name: str) -> None:
        vm.modprobe("test_kmod")
        vm.write(f"{DEVICE}/config_test_driver", name)
        vm.write(f"{DEVICE}/config_test_case", str(BY_NAME))
        assert trigger(vm, AT_ONCE) == NOT_FOUND
        assert names(vm) == {"test_kmod"}

    @pytest.mark.parametrize("path", ["/nosuch", ""])
    def test_without_a_modprobe(self, vm: Vm, path: str) -> None:
        """kmod.sh's 0010 and 0011."""
        vm.modprobe("test_kmod")
        vm.write(f"{DEVICE}/config_test_driver", "test_module")
        vm.write(f"{DEVICE}/config_test_case", str(BY_NAME))
        vm.write("/proc/sys/kernel/modprobe", f"{path}\n")
        assert trigger(vm, 1) == -errno.ENOENT
        assert names(vm) == {"test_kmod"}


@pytest.mark.kernelvm(modules=["loop"])
class TestOptions:
    """Those given for the initramfs are in force when the kernel loads the module by itself."""

    @pytest.mark.kernelvm(options={"loop": "max_part=7"})
    def test_for_a_device(self, vm: Vm) -> None:
        """Opening a node that has no driver asks for char-major-10-237 (fs/char_dev.c)."""
        assert names(vm) == set()
        vm.syscall("mknodat", AT_FDCWD, "/control", stat.S_IFCHR | 0o600, 10 << 8 | 237)
        vm.syscall("close", vm.syscall("openat", AT_FDCWD, "/control", os.O_RDWR, 0))
        assert names(vm) == {"loop"}
        assert parameter(vm, "loop", "max_part") == "7"
        # The vm-config's.
        assert parameter(vm, "loop", "max_loop") == "3"
        assert vm.list("/sys/block") == ("loop0", "loop1", "loop2")

    @pytest.mark.kernelvm(blacklist=["loop"])
    def test_blacklist_for_a_device(self, vm: Vm) -> None:
        vm.syscall("mknodat", AT_FDCWD, "/control", stat.S_IFCHR | 0o600, 10 << 8 | 237)
        with pytest.raises(SyscallFailed) as refused:
            vm.syscall("openat", AT_FDCWD, "/control", os.O_RDWR, 0)
        assert refused.value.errno in (errno.ENXIO, errno.ENODEV)
        assert names(vm) == set()

    def test_before_there_is_an_init(self, boot_vm: BootVm, cell: Cell) -> None:
        """The first program that the kernel executes has a format that it does not know.

        It asks for binfmt-XXXX, where XXXX are bytes 2 and 3 (fs/exec.c, search_binary_handler),
        gets a module, and goes on to init=. Nothing is mounted then, not even /proc.
        """
        arch = cell.config.arch
        number = int.from_bytes(b"LF", arch.endianness)
        vm = boot_vm(
            options={"loop": "max_part=15"},
            files={
                "/strange": b"\x7fELF of a kind that nobody knows",
                "/etc/modprobe.d/strange.conf": f"alias binfmt-{number:04x} loop\n".encode(),
            },
            cmdline="rdinit=/strange init=/init",
        )
        assert names(vm) == {"loop"}
        assert parameter(vm, "loop", "max_part") == "15"
        assert parameter(vm, "loop", "max_loop") == "3"
        records = [record.text for record in vm.dmesg]
        loaded = next(
            at for at, text in enumerate(records) if re.match("loop: module loaded", text)
        )
        assert loaded < next(at for at, text in enumerate(records) if "Run /init as init" in text)


@pytest.mark.kernelvm(modules=["dummy", "nf_tables"])
def test_symbol(vm: Vm) -> None:
    """symbol_request() asks for symbol:NAME (include/linux/module.h)."""
    vm.modprobe("symbol:nft_register_expr")
    assert "nf_tables" in names(vm)


def test_alias_of_what_is_builtin(vm: Vm) -> None:
    """As net-pf-10, the alias of CONFIG_IPV6=y: nothing to load, no error."""
    vm.modprobe("net-pf-10")
    assert vm.modprobe("--show-depends", "net-pf-10") == "builtin ipv6\n"
    assert vm.modules == ()
