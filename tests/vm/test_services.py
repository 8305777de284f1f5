"""Services in a guest: each brings its modules and takes away what nobody else holds."""

from __future__ import annotations

import pytest

from pytest_kernelvm import BootVm, Cell, Vm
from pytest_kernelvm.errors import BadInput, CommandFailed

pytestmark = [pytest.mark.slow, pytest.mark.every_cell]


def names(vm: Vm) -> set[str]:
    return {module.name for module in vm.modules}


@pytest.fixture
def vm(new_vm: BootVm, cell: Cell) -> Vm:
    """A guest with the modules of two services."""
    wanted = [
        *cell.services.requirement("firewall").modules,
        *cell.services.requirement("bridge").modules,
    ]
    return new_vm(modules=wanted)


def test_one_service_is_loaded_and_unloaded(vm: Vm, cell: Cell) -> None:
    closure = vm.services.load("bridge")
    assert names(vm) == set(closure.load_order)
    assert set(cell.services.requirement("bridge").modules) <= names(vm)
    assert vm.services.unload("bridge") == closure.unload_order
    assert vm.modules == ()


@pytest.mark.slow
def test_two_services_are_loaded_and_unloaded(vm: Vm, cell: Cell) -> None:
    firewall = vm.services.load("firewall")
    assert names(vm) == set(firewall.load_order)
    assert set(cell.services.requirement("firewall").modules) <= names(vm)
    bridge = vm.services.load("bridge")
    assert vm.services.loaded == ("firewall", "bridge")
    assert vm.services.unload("firewall") == firewall.unload_order
    assert names(vm) == set(bridge.load_order)
    assert not names(vm) & set(firewall.load_order)
    assert vm.services.unload("bridge") == bridge.unload_order
    assert vm.modules == ()


def test_parameters_arrive(vm: Vm) -> None:
    vm.services.load("firewall", hash_size=4096, accounting=True)
    parameters = "/sys/module/nf_conntrack/parameters"
    assert vm.read(f"{parameters}/hashsize").strip() == "4096"
    assert vm.read(f"{parameters}/acct").strip() == "Y"


def test_a_condition_leaves_modules_out(vm: Vm) -> None:
    vm.services.load("bridge", vlan=False)
    assert "8021q" not in names(vm)
    assert "bridge" in names(vm)


def test_what_others_loaded_stays(vm: Vm) -> None:
    vm.modprobe("stp")
    before = names(vm)
    assert before < set(vm.services.load("bridge").load_order)
    vm.services.unload("bridge")
    assert names(vm) == before


def test_parameters_come_too_late_for_a_loaded_module(vm: Vm) -> None:
    vm.modprobe("nf_conntrack")
    before = names(vm)
    with pytest.raises(BadInput, match="parameters for modules that are loaded already"):
        vm.services.load("firewall", hash_size=4096)
    assert names(vm) == before
    assert before < set(vm.services.load("firewall").load_order) == names(vm)


def test_what_others_need_stays(vm: Vm) -> None:
    closure = vm.services.load("bridge")
    vm.services.unload("bridge")
    vm.services.load("bridge", vlan=False)
    vm.modprobe("8021q")
    held = {module.name for module in vm.modules if module.holders}
    vm.services.unload("bridge")
    assert "bridge" not in names(vm)
    assert "8021q" in names(vm)
    assert names(vm) <= held | {"8021q"}
    assert names(vm) < set(closure.load_order)


def test_a_module_that_is_not_packed_takes_back_the_others(new_vm: BootVm) -> None:
    vm = new_vm(modules=["nft_ct"])
    with pytest.raises(CommandFailed):
        vm.services.load("firewall")
    assert vm.modules == ()
    assert vm.services.loaded == ()


def test_misuse(vm: Vm) -> None:
    with pytest.raises(BadInput, match="no service nosuch"):
        vm.services.load("nosuch")
    with pytest.raises(BadInput, match="has no parameter colour"):
        vm.services.load("bridge", colour="red")
    with pytest.raises(BadInput, match="is not loaded"):
        vm.services.unload("bridge")
    assert vm.modules == ()
