"""What becomes of modules: each of the kernel's own, and those that something happens to."""

import errno
import os

import pytest

from pytest_kernelvm import BootVm, Cell, Closure, Vm
from pytest_kernelvm.errors import BadInput, BuildFailed, SyscallFailed
from tests.vm.external import EXTERNAL

pytestmark = pytest.mark.slow

AT_FDCWD = -100
QUOTES = str.maketrans("‘’", "''")
# AF_NETLINK, SOCK_RAW, and the protocol that nfnetlink has.
NETLINK_NETFILTER = (16, 3, 12)


def names(vm: Vm) -> set[str]:
    return {module.name for module in vm.modules}


def all_of(cell: Cell) -> tuple[str, ...]:
    """Return the names of all modules that were built with the kernel."""
    return tuple(cell.tree.modules)


def unload_all(vm: Vm) -> None:
    """Unload what is loaded; what was loaded last is needed by nobody."""
    for module in vm.modules:
        vm.succeed("rmmod", module.name)
    assert vm.modules == ()


@pytest.mark.slow
def test_each_module_alone(new_vm: BootVm, cell: Cell) -> None:
    every = all_of(cell)
    assert len(every) >= 50
    vm = new_vm(modules=every)
    for name in every:
        vm.modprobe(name)
        assert names(vm) == set(cell.closure([name]).load_order), name
        assert {module.state for module in vm.modules} == {"Live"}, name
        unload_all(vm)


@pytest.mark.slow
def test_all_modules_together(new_vm: BootVm, cell: Cell) -> None:
    every = all_of(cell)
    closure = cell.closure(every)
    assert set(closure.load_order) == set(every)
    vm = new_vm(closure=closure)
    vm.modprobe("-a", *every)
    loaded = vm.modules
    assert {module.name for module in loaded} == set(every)
    # A second time changes nothing.
    vm.modprobe("-a", *every)
    assert vm.modules == loaded
    vm.succeed("rmmod", *closure.unload_order)
    assert vm.modules == ()
    vm.modprobe("-a", *every)
    assert names(vm) == set(every)


@pytest.mark.kernelvm(external=EXTERNAL, modules=["needing", "wanting"])
class TestInitThatFails:
    @pytest.mark.parametrize(
        ("error", "said"),
        [
            ("ENODEV", "No such device"),
            ("ENOMEM", "Cannot allocate memory"),
            ("EBUSY", "Device or resource busy"),
            ("EOPNOTSUPP", "Operation not supported"),
            # What the kernel says of a symbol that it does not find, too.
            ("ENOENT", "Unknown symbol in module, or unknown parameter (see dmesg)"),
        ],
    )
    def test_the_error_of_init_is_reported(self, vm: Vm, cell: Cell, error: str, said: str) -> None:
        number = cell.programs.abi.errnos[error]
        refused = vm.fail("modprobe", "failing", f"error=-{number}")
        assert refused.status == 1
        assert refused.errors == f"modprobe: ERROR: could not insert 'failing': {said}\n"
        assert names(vm) == set()

    def test_loading_can_be_tried_again(self, vm: Vm) -> None:
        vm.fail("modprobe", "failing")
        vm.modprobe("failing", "error=0")
        assert names(vm) == {"failing"}
        vm.modprobe("-r", "failing")
        assert names(vm) == set()

    def test_a_dependent_module_is_not_loaded(self, vm: Vm) -> None:
        refused = vm.fail("modprobe", "needing")
        assert refused.status == 1
        assert "No such device" in refused.errors
        assert names(vm) == set()

    @pytest.mark.kernelvm(options={"failing": "error=0"})
    def test_works_with_the_right_option(self, vm: Vm) -> None:
        vm.modprobe("needing")
        assert names(vm) == {"failing", "needing"}
        assert {m.name: m.holders for m in vm.modules}["failing"] == ("needing",)
        vm.modprobe("-r", "needing")
        assert names(vm) == set()

    def test_a_soft_dependent_module_is_loaded(self, vm: Vm) -> None:
        vm.modprobe("wanting")
        assert names(vm) == {"wanting"}

    def test_an_init_that_returns_more_than_zero_succeeds(self, vm: Vm) -> None:
        """The kernel warns and keeps the module (kernel/module/main.c, do_init_module)."""
        with vm.allow_splats("suspiciously returned 1", reason="provoked") as allowed:
            vm.modprobe("failing", "error=1")
        assert [splat.kind for splat in allowed.splats] == ["call trace"]
        assert names(vm) == {"failing"}
        assert "'failing'->init suspiciously returned 1" in vm.dmesg


@pytest.mark.kernelvm(external=EXTERNAL, modules=["held", "staying", "needing"])
class TestInUse:
    def test_while_its_device_is_open(self, vm: Vm) -> None:
        vm.modprobe("held")
        opened = [vm.syscall("openat", AT_FDCWD, "/dev/held", os.O_RDONLY, 0) for _ in range(3)]
        assert vm.modules[0].use_count == 3
        assert vm.fail("modprobe", "-r", "held").errors == (
            "modprobe: FATAL: Module held is in use.\n"
        )
        assert "in use" in vm.fail("rmmod", "held").errors
        for descriptor in opened:
            assert vm.fail("modprobe", "-r", "held").status == 1
            vm.syscall("close", descriptor)
        vm.modprobe("-r", "held")
        assert not vm.exists("/dev/held")
        assert vm.modules == ()

    @pytest.mark.kernelvm(options={"failing": "error=0"})
    def test_while_another_needs_it(self, vm: Vm) -> None:
        vm.modprobe("needing")
        refused = vm.fail("rmmod", "failing")
        assert "failing is in use by: needing" in refused.errors
        assert vm.fail("modprobe", "-r", "failing").status == 1
        assert names(vm) == {"failing", "needing"}

    def test_for_ever(self, vm: Vm) -> None:
        vm.modprobe("staying")
        refused = vm.fail("modprobe", "-r", "staying")
        assert "Device or resource busy" in refused.errors
        assert names(vm) == {"staying"}


@pytest.mark.kernelvm(modules=["nft_ct"])
class TestVanishedDependency:
    """A file that was there when the load was planned, by the host, and then is not."""

    def test_is_named(self, vm: Vm, closure: Closure) -> None:
        path = path_of(closure, "nf_tables")
        vm.unlink(path)
        refused = vm.fail("modprobe", "nft_ct")
        assert refused.status == 1
        assert f"'nft_ct': {path}: No such file or directory" in refused.errors
        assert {"nft_ct", "nf_tables"}.isdisjoint(names(vm))

    def test_stops_the_plan_where_it_is(self, vm: Vm, closure: Closure) -> None:
        vanished = closure.load_order[len(closure.load_order) // 2]
        vm.unlink(path_of(closure, vanished))
        loaded = []
        for name in closure.load_order:
            result = vm.run("insmod", path_of(closure, name))
            if result.status != 0:
                break
            loaded.append(name)
        assert name == vanished
        assert path_of(closure, vanished) in result.errors
        assert "No such file or directory" in result.errors
        assert [module.name for module in reversed(vm.modules)] == loaded

    def test_does_not_matter_once_loaded(self, vm: Vm, closure: Closure) -> None:
        vm.modprobe("nf_tables")
        vm.unlink(path_of(closure, "nf_tables"))
        vm.modprobe("nft_ct")
        assert names(vm) == set(closure.load_order)

    def test_stops_what_the_kernel_asks_for(self, vm: Vm, closure: Closure) -> None:
        vm.syscall("close", vm.syscall("socket", *NETLINK_NETFILTER))
        assert names(vm) == {"nfnetlink"}
        vm.modprobe("-r", "nfnetlink")
        vm.unlink(path_of(closure, "nfnetlink"))
        with pytest.raises(SyscallFailed) as refused:
            vm.syscall("socket", *NETLINK_NETFILTER)
        assert refused.value.errno == errno.EPROTONOSUPPORT
        assert names(vm) == set()


def path_of(closure: Closure, name: str) -> str:
    (module,) = (module for module in closure.modules if module.name == name)
    return f"/lib/modules/{closure.release}/{module.file.relative}"


@pytest.mark.kernelvm(
    external=EXTERNAL,
    modules=["test_static_keys", "test_bitmap", "test_printf", "test_xarray"],
)
@pytest.mark.slow
class TestTheKernelsOwn:
    """Its test modules; each fails to load, or says so, if the kernel fails its test."""

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("test_bitmap", "all [0-9]+ tests passed"),
            ("test_printf", "all [0-9]+ tests passed"),
            ("test_xarray", "XArray: ([0-9]+) of \\1 tests passed"),
        ],
    )
    def test_passes(self, vm: Vm, name: str, said: str) -> None:
        # By the clock of an emulated processor they keep it for longer than a task should.
        vm.write("/proc/sys/kernel/soft_watchdog", "0")
        vm.modprobe(name, timeout_s=120)
        assert vm.dmesg.matching(said)
        vm.modprobe("-r", name)
        assert vm.modules == ()

    def test_passes_with_a_dependency(self, vm: Vm) -> None:
        vm.modprobe("test_static_keys")
        assert names(vm) == {"test_static_keys", "test_static_key_base"}
        vm.modprobe("-r", "test_static_keys")
        assert vm.modules == ()


@pytest.mark.slow
def test_external_module_that_does_not_compile(cell: Cell) -> None:
    broken = cell.variant(external={"broken": "int start(void) { return nothing; }\n"})
    with pytest.raises(BuildFailed, match="broken does not compile for ") as refused:
        broken.closure(["broken"])
    assert "'nothing' undeclared" in refused.value.evidence.excerpt.translate(QUOTES)
    assert "broken.c:1:" in refused.value.evidence.excerpt


def test_external_module_of_a_name_that_is_taken(cell: Cell) -> None:
    taken = cell.variant(external={"loop": EXTERNAL["held"]})
    with pytest.raises(BadInput, match="has a module loop of its own"):
        taken.closure(["loop"])
