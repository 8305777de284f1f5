"""What is linked from the kernel made before, and when it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_kernelvm.kernel.build.build_directories import BuildDirectory
from pytest_kernelvm.kernel.build.incremental import (
    PreviousKernel,
    link_outputs,
    module_stamps,
    previous_kernel,
    record_of,
)
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.store.digest import Digest
from pytest_kernelvm.store.kinds import KERNELS
from pytest_kernelvm.store.store import StagingDirectory, Store


@pytest.fixture
def objects(tmp_path: Path) -> Path:
    """A build directory with two modules."""
    directory = tmp_path / "tree" / ".objects"
    for name in ("net/a.ko", "lib/b.ko"):
        (directory / name).parent.mkdir(parents=True)
        (directory / name).write_text("a module")
    (directory / "modules.order").write_text("net/a.o\nlib/b.o\n")
    (directory / "modules.builtin").write_text("kernel/lib/c.ko\n")
    return directory


KERNEL = Digest("d" * 64)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", Silent())


def build_directory(
    objects: Path, made: str, changed: tuple[str, ...] | None = ()
) -> BuildDirectory:
    return BuildDirectory(
        tree=objects.parent, objects=objects, changed=changed, parent="", made=made
    )


def fill(work: StagingDirectory) -> dict[str, Any]:
    (work.entry / "headers" / "linux").mkdir(parents=True)
    (work.entry / "headers" / "linux" / "a.h").write_text("a header")
    return {}


def test_the_previous_kernel_is_found(store: Store, objects: Path, tmp_path: Path) -> None:
    entry = store.obtain(KERNELS, KERNEL, fill, label="it")
    previous = previous_kernel(
        store, build_directory(objects, record_of(KERNEL, objects), ("init/main.c",))
    )
    assert previous is not None
    assert (previous.entry, previous.changed) == (entry, ("init/main.c",))
    assert previous.modules == module_stamps(objects)
    (tmp_path / "next").mkdir()
    link_outputs(previous, tmp_path / "next", ["headers"])
    assert (tmp_path / "next/headers/linux/a.h").samefile(entry / "headers/linux/a.h")


def test_no_previous_kernel(store: Store, objects: Path) -> None:
    note = record_of(KERNEL, objects)
    assert previous_kernel(store, build_directory(objects, note)) is None
    store.obtain(KERNELS, KERNEL, fill, label="it")
    assert previous_kernel(store, build_directory(objects, note)) is not None
    assert previous_kernel(store, build_directory(objects, note, None)) is None
    for damaged in ("", "{", "[]", "{}"):
        assert previous_kernel(store, build_directory(objects, damaged)) is None


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ((), True),
        (("init/main.c", "include/linux/sched.h", "arch/mips/boot/dts/a.dts"), True),
        (("include/uapi/linux/if.h",), False),
        (("arch/mips/include/uapi/asm/errno.h",), False),
        (("init/main.c", "scripts/unifdef.c"), False),
        (("tools/include/nolibc/stdio.h",), False),
        (("arch/mips/kernel/syscalls/syscall_o32.tbl",), False),
        (("include/asm-generic/Kbuild",), False),
        (("Makefile",), False),
        (("usr/include/Makefile",), False),
    ],
)
def test_files_that_decide_headers(changed: tuple[str, ...], same: bool) -> None:
    assert PreviousKernel(entry=Path(), changed=changed, modules={}).has_headers is same


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("net/a.ko", "another module"),
        ("modules.order", "lib/b.o\nnet/a.o\n"),
        ("modules.order", "net/a.o\n"),
        ("modules.builtin", ""),
        ("modules.builtin.modinfo", "c.license=GPL\0"),
    ],
)
def test_modules_that_have_to_be_installed_again(objects: Path, name: str, text: str) -> None:
    before = module_stamps(objects)
    assert module_stamps(objects) == before
    (objects / name).write_text(text)
    assert module_stamps(objects) != before or list(module_stamps(objects)) != list(before)


def test_a_kernel_without_modules(tmp_path: Path) -> None:
    assert module_stamps(tmp_path) == {}
