"""The modules of Liminix' firewall service load and unload completely."""

import pytest

from pytest_kernelvm import Cell, Closure, Vm

FIREWALL = (
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_fib_inet",
    "nf_log_syslog",
    "nf_conntrack",
    "nf_nat",
    "nf_reject_ipv4",
    "nf_reject_ipv6",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_fib",
    "nft_hash",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_nat",
    "nft_redir",
    "nft_reject",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "nft_flow_offload",
)

pytestmark = pytest.mark.kernelvm(modules=FIREWALL)


def unload(vm: Vm, closure: Closure) -> None:
    """Unload what is loaded of a closure, each before what it needs; nothing may be in use."""
    loaded = {module.name for module in vm.modules}
    for name in closure.unload_order:
        if name in loaded:
            vm.succeed("rmmod", name)


def test_loads_and_unloads(vm: Vm, closure: Closure) -> None:
    vm.modprobe("-a", *FIREWALL)
    assert {module.name for module in vm.modules} == set(closure.load_order)
    assert set(FIREWALL) <= set(closure.load_order)
    unload(vm, closure)
    assert vm.modules == ()


@pytest.mark.parametrize("module", FIREWALL)
def test_each_alone(vm: Vm, cell: Cell, module: str) -> None:
    vm.modprobe(module)
    assert {loaded.name for loaded in vm.modules} == set(cell.closure([module]).load_order)
