"""What the first stage has in memory, for both byte orders."""

from __future__ import annotations

import shutil
import struct

import pytest

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.vm.bootpath.first_stage import (
    UHI,
    WORDS_AT,
    LoadedBytes,
    stage_entry,
    uhi_stage,
    yamon_stage,
)

ENTRY = 0x80123450
MEMORY_BYTES = 128 << 20
ORDERS = {"big": ">", "little": "<"}


@pytest.fixture(params=[name for name, arch in ARCHES.items() if arch.first_stage])
def arch(request: pytest.FixtureRequest) -> Arch:
    found = ARCHES[request.param]
    if not shutil.which(f"{found.toolchain_prefix}gcc"):
        pytest.skip(f"apt-get install {found.compiler_packages.apt}")
    return found


def words(arch: Arch, stage: LoadedBytes, address: int, count: int) -> tuple[int, ...]:
    """Return words of a stage as the CPU reads them. address: virtual."""
    at = address - stage_entry(arch)
    return struct.unpack_from(f"{ORDERS[arch.endianness]}{count}I", stage.content, at)


def texts(arch: Arch, stage: LoadedBytes, vector: int) -> list[bytes]:
    """Return what a vector of pointers with a null pointer at its end points at."""
    found = []
    while pointer := words(arch, stage, vector, 1)[0]:
        found.append(stage.content[pointer - stage_entry(arch) :].partition(b"\0")[0])
        vector += 4
    return found


def test_arguments_and_environment(arch: Arch) -> None:
    stage = yamon_stage(arch, ENTRY, cmdline="a=b größe", memory_bytes=MEMORY_BYTES)
    entry, argc, argv, environment, size = words(arch, stage, stage_entry(arch) + WORDS_AT, 5)
    assert (entry, argc, size) == (ENTRY, 2, MEMORY_BYTES)
    assert texts(arch, stage, argv) == [b"kernel", "a=b größe".encode()]
    assert dict(zip(*[iter(texts(arch, stage, environment))] * 2, strict=True)) == {
        b"memsize": b"134217728",
        b"ememsize": b"134217728",
        b"modetty0": b"38400n8r",
    }


def test_a_device_tree_is_handed_over(arch: Arch) -> None:
    stage = uhi_stage(arch, ENTRY, b"the tree", memory_bytes=MEMORY_BYTES)
    entry, mark, tree, environment, last = words(arch, stage, stage_entry(arch) + WORDS_AT, 5)
    assert (entry, mark, last) == (ENTRY, UHI, 0)
    assert tree % 8 == 0
    assert stage.content[tree - stage_entry(arch) :] == b"the tree"
    assert texts(arch, stage, environment)[:2] == [b"memsize", b"134217728"]


def test_the_first_instruction_is_a_branch_over_the_words(arch: Arch) -> None:
    """`bal .+28`: REGIMM, BGEZAL $0, six instructions behind the delay slot."""
    stage = yamon_stage(arch, ENTRY, cmdline="", memory_bytes=MEMORY_BYTES)
    assert words(arch, stage, stage_entry(arch), 2) == (0x0411_0006, 0)


def test_a_command_line_that_the_kernel_would_cut_off(arch: Arch) -> None:
    assert arch.first_stage is not None
    longest = arch.first_stage.cmdline_bytes
    yamon_stage(arch, ENTRY, cmdline="x" * longest, memory_bytes=MEMORY_BYTES)
    with pytest.raises(BadInput, match="4096 bytes"):
        yamon_stage(arch, ENTRY, cmdline="x" * (longest + 1), memory_bytes=MEMORY_BYTES)


def test_other_architectures_have_no_first_stage() -> None:
    with pytest.raises(BadInput, match="aarch64 has no first stage"):
        yamon_stage(ARCHES["aarch64"], ENTRY, cmdline="", memory_bytes=MEMORY_BYTES)
