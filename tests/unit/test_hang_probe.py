"""Where a CPU is by the kernel's symbols."""

from __future__ import annotations

from pytest_kernelvm.vm.verdict.hang_probe import parse_system_map

MAP = """\
ffff800080000000 T _text
ffff800080010000 T vfs_read
ffff800080010400 t local_function
ffff800080010400 d not_code
ffff800080020000 W weak_function
ffff800080900000 B __log_buf
"""


def test_names_of_addresses() -> None:
    symbols = parse_system_map(MAP)
    assert symbols.name_at(0xFFFF800080010000) == "vfs_read+0x0"
    assert symbols.name_at(0xFFFF800080010123) == "vfs_read+0x123"
    assert symbols.name_at(0xFFFF800080010404) == "local_function+0x4"
    assert symbols.name_at(0xFFFF800080020010) == "weak_function+0x10"


def test_addresses_without_a_name() -> None:
    symbols = parse_system_map(MAP)
    for address in (0, 0x1000, 0xFFFF80007FFFFFFF, 0xFFFF800078610000, 0xFFFFFFFFFFFFFFFF):
        assert symbols.name_at(address) == ""
    assert parse_system_map("").name_at(5) == ""
