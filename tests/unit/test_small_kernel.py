"""Whole builds that meet full disks, signals, others, read-only stores and wrong compilers."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kernelvm.errors import BadInput, BuildFailed, HarnessError, ToolMissing, Verdict
from pytest_kernelvm.kernel.build.build import Kernel, build_kernel, find_kernel
from pytest_kernelvm.process import run, spawn
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.store.kinds import DEVEL
from pytest_kernelvm.store.store import Store
from tests.unit.small_kernel import ARCH, build_argv, kernelvm_build, write_cell, write_small_kernel
from tests.unit.test_process import wait_until
from tests.unit.test_store import disk_of

LARGE = "char start[3 << 20] = {1};\n"


@pytest.fixture(autouse=True)
def no_remote_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KERNELVM_REMOTE", raising=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_small_kernel(tmp_path / "linux")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of("4m", tmp_path) as directory:
        yield directory


def remount(disk: Path, options: str) -> None:
    run(["mount", "-o", f"remount,{options}", disk], timeout_s=60)


def outputs(kernel: Kernel) -> dict[str, bytes]:
    made = ("vmlinux", "System.map", "config", "headers/linux/seen.h")
    return {name: (kernel.directory / name).read_bytes() for name in made}


def pack(tree: Path) -> Path:
    tarball = tree.with_suffix(".tar.gz")
    run(["tar", "-czf", tarball, "-C", tree.parent, tree.name], timeout_s=60)
    return tarball


def half_made(root: Path) -> list[str]:
    places = ("tmp/*", "kernels/*", "devel/*", "requests/*", "builds/*/note.json")
    return sorted(str(p.relative_to(root)) for place in places for p in root.glob(place))


# Full disks


def test_a_disk_that_gets_full_while_make_runs(tree: Path, disk: Path, tmp_path: Path) -> None:
    (tree / "init/main.c").write_text(LARGE)
    cell = write_cell(tmp_path, f"tree: {tree}")
    with pytest.raises(HarnessError, match="the disk of the store is full") as failed:
        build_kernel(Store(disk, Silent()), cell)
    assert "make room" in failed.value.evidence.next_step
    assert half_made(disk) == []
    remount(disk, "size=64m")
    kernel = build_kernel(Store(disk, Silent()), cell)
    assert outputs(kernel) == outputs(build_kernel(Store(tmp_path / "store", Silent()), cell))


def test_a_disk_that_gets_full_while_it_is_stored(tree: Path, disk: Path, tmp_path: Path) -> None:
    """Make has made all; there is no room for what is kept of it."""
    (tree / "init/main.c").write_text(LARGE.replace("3 << 20", "1 << 20"))
    cell = write_cell(tmp_path, f"tree: {tree}")
    with pytest.raises(HarnessError, match="the disk of the store is full"):
        build_kernel(Store(disk, Silent()), cell)
    assert half_made(disk) == []
    remount(disk, "size=64m")
    assert build_kernel(Store(disk, Silent()), cell).release == "6.12.1"


def test_a_full_disk_is_told_in_words(tree: Path, disk: Path, tmp_path: Path) -> None:
    (tree / "init/main.c").write_text(LARGE)
    write_cell(tmp_path, f"tree: {tree}")
    done = kernelvm_build(tmp_path, disk)
    assert done.status == Verdict.HARNESS_ERROR.exit_code
    assert "the disk of the store is full" in done.stderr
    assert "Traceback" not in done.stderr


# Killed and at the same time


def test_sigkill_while_make_runs(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = write_cell(tmp_path, f"tree: {tree}")
    root, compiled, log = tmp_path / "store", tmp_path / "compiled", tmp_path / "log"
    monkeypatch.setenv("COMPILED", str(compiled))
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    with spawn(build_argv(tmp_path, root, cell.id), output=log) as builder:
        wait_until(compiled.is_file, "a compiler to be called")
        os.kill(builder.pid, signal.SIGKILL)
        assert builder.wait(10) == -signal.SIGKILL
    assert not list(root.glob("kernels/*"))
    (tmp_path / "go").touch()
    # What make had begun may still note something.
    again = tmp_path / "again"
    monkeypatch.setenv("COMPILED", str(again))
    kernel = build_kernel(Store(root, Silent()), cell)
    assert sorted(again.read_text().split()) == ["main", "other"]
    assert outputs(kernel) == outputs(build_kernel(Store(tmp_path / "other", Silent()), cell))


def test_two_processes_make_one_kernel_once(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = write_cell(tmp_path, f"tree: {tree}")
    compiled, logs = tmp_path / "compiled", (tmp_path / "log1", tmp_path / "log2")
    monkeypatch.setenv("COMPILED", str(compiled))
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    argv = build_argv(tmp_path, tmp_path / "store", cell.id)
    with spawn(argv, output=logs[0]) as one:
        wait_until(compiled.is_file, "a compiler to be called")
        with spawn(argv, output=logs[1]) as two:
            wait_until(lambda: "waiting for" in logs[1].read_text(), "the other to wait")
            (tmp_path / "go").touch()
            assert (one.wait(60), two.wait(60)) == (0, 0)
    assert (
        f"waiting for the kernel of {cell.id}, being made by pid {one.pid}" in logs[1].read_text()
    )
    assert sorted(compiled.read_text().split()) == ["main", "other"]
    assert [log.read_text().splitlines()[-1] for log in logs] == [
        f"{cell.id}: 6.12.1 {build_kernel(Store(tmp_path / 'store', Silent()), cell).directory}"
    ] * 2


def test_two_configurations_are_made_at_once(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A working tree is held until it is built; an unpacked source is not."""
    source = f"tarball: {pack(tree)}"
    cells = [
        write_cell(tmp_path, source, f"LOG_BUF_SHIFT: {number}", name=f"n{number}")
        for number in (17, 18)
    ]
    compiled = [tmp_path / "compiled17", tmp_path / "compiled18"]
    monkeypatch.setenv("GO", str(tmp_path / "go"))
    monkeypatch.setenv("COMPILED", str(compiled[0]))
    root = tmp_path / "store"
    with spawn(build_argv(tmp_path, root, cells[0].id), output=tmp_path / "log17") as one:
        wait_until(compiled[0].is_file, "the first to compile")
        monkeypatch.setenv("COMPILED", str(compiled[1]))
        with spawn(build_argv(tmp_path, root, cells[1].id), output=tmp_path / "log18") as two:
            wait_until(compiled[1].is_file, "the second to compile")
            (tmp_path / "go").touch()
            assert (one.wait(60), two.wait(60)) == (0, 0)
    kernels = [find_kernel(Store(root, Silent()), cell) for cell in cells]
    assert [kernel.config["LOG_BUF_SHIFT"] for kernel in kernels if kernel] == ["17", "18"]


# Where it is kept


def test_a_read_only_store_gives_what_it_has(tree: Path, disk: Path, tmp_path: Path) -> None:
    remount(disk, "size=64m")
    cell = write_cell(tmp_path, f"tree: {tree}")
    # Old enough for what was read of it to be noted.
    run(["find", tree, "-exec", "touch", "-d", "yesterday", "{}", "+"], timeout_s=60)
    time.sleep(2.1)
    made = build_kernel(Store(disk, Silent()), cell)
    remount(disk, "ro")
    assert build_kernel(Store(disk, Silent()), cell) == made
    (tree / "init/main.c").write_text("int start = 1;\n")
    with pytest.raises(BadInput, match=r"the store is not writable: .*Read-only file system"):
        build_kernel(Store(disk, Silent()), cell)
    done = kernelvm_build(tmp_path, disk)
    assert (done.status, "Traceback" in done.stderr) == (Verdict.BAD_INPUT.exit_code, False)
    remount(disk, "rw")
    assert build_kernel(Store(disk, Silent()), cell) != made


def test_a_store_on_another_file_system(tree: Path, disk: Path, tmp_path: Path) -> None:
    remount(disk, "size=64m")
    cell = write_cell(tmp_path, f"tree: {tree}")
    kernel = build_kernel(Store(disk, Silent()), cell)
    assert outputs(kernel) == outputs(build_kernel(Store(tmp_path / "store", Silent()), cell))


def test_a_remote_store(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one machine built another one takes, and builds where it cannot be had."""
    pytest.importorskip("fsspec")
    cell = write_cell(tmp_path, f"tarball: {pack(tree)}")
    monkeypatch.setenv("KERNELVM_REMOTE", f"file://{tmp_path / 'remote'}")
    monkeypatch.setenv("KERNELVM_REMOTE_WRITE", "1")
    built = build_kernel(Store(tmp_path / "one", Silent()), cell)
    compiled = tmp_path / "compiled"
    monkeypatch.setenv("COMPILED", str(compiled))
    taken = build_kernel(Store(tmp_path / "two", Silent()), cell)
    assert (taken.digest, outputs(taken)) == (built.digest, outputs(built))
    assert not compiled.exists()
    for archive in (tmp_path / "remote").rglob("*.tar*"):
        archive.write_bytes(archive.read_bytes()[:-100])
    damaged = build_kernel(Store(tmp_path / "three", Silent()), cell)
    assert outputs(damaged) == outputs(built)
    assert sorted(compiled.read_text().split()) == ["main", "other"]
    monkeypatch.setenv("KERNELVM_REMOTE", "http://127.0.0.1:1/store")
    alone = build_kernel(Store(tmp_path / "four", Silent()), cell)
    assert outputs(alone) == outputs(built)


# What is made again


def test_an_edit_compiles_one_object(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = write_cell(tmp_path, f"tree: {tree}")
    store = Store(tmp_path / "store", Silent())
    before = build_kernel(store, cell)
    monkeypatch.setenv("COMPILED", str(tmp_path / "compiled"))
    (tree / "init/main.c").write_text("int start = 1;\n")
    after = build_kernel(store, cell)
    assert (tmp_path / "compiled").read_text().split() == ["main"]
    assert (after.directory / "vmlinux").read_bytes() != (before.directory / "vmlinux").read_bytes()
    header = "headers/linux/seen.h"
    assert (after.directory / header).samefile(before.directory / header)
    assert after.headers_digest == before.headers_digest
    # What programs see is made again when it changes.
    (tree / "include/uapi/linux/seen.h").write_text("#define SEEN 2\n")
    last = build_kernel(store, cell)
    assert (last.directory / header).read_text() == "#define SEEN 2\n"
    assert (after.directory / header).read_text() == "#define SEEN 1\n"
    assert outputs(last) == outputs(build_kernel(Store(tmp_path / "other", Silent()), cell))


def test_a_first_tree_starts_from_another_source(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a tree like a tarball that was built before only what differs is compiled."""
    store = Store(tmp_path / "store", Silent())
    before = build_kernel(store, write_cell(tmp_path, f"tarball: {pack(tree)}"))
    (tree / "init/main.c").write_text("int start = 1;\n")
    (tree / "include/uapi/linux/seen.h").write_text("#define SEEN 2\n")
    cell = write_cell(tmp_path, f"tree: {tree}")
    monkeypatch.setenv("COMPILED", str(tmp_path / "compiled"))
    kernel = build_kernel(store, cell)
    assert (tmp_path / "compiled").read_text().split() == ["main"]
    assert outputs(kernel) == outputs(build_kernel(Store(tmp_path / "other", Silent()), cell))
    assert outputs(kernel)["headers/linux/seen.h"] != outputs(before)["headers/linux/seen.h"]


def test_the_same_configuration_is_the_same_kernel(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asked for it, in which words, by which name and with how many jobs is not in the key."""
    (tmp_path / "vm-configs").mkdir()
    (tmp_path / "vm-configs" / "f.config").write_text("CONFIG_A=y\nCONFIG_HEX=0x10\n")
    one = write_cell(tmp_path, f"tree: {tree}", "A: y, HEX: 0x10")
    other = write_cell(tmp_path, f"tree: {tree}", "A: y", fragments="f.config", name="other")
    store = Store(tmp_path / "store", Silent())
    kernel = build_kernel(store, one, jobs=1)
    monkeypatch.setenv("COMPILED", str(tmp_path / "compiled"))
    assert find_kernel(store, other) is None
    assert build_kernel(store, other, jobs=3).digest == kernel.digest
    assert not (tmp_path / "compiled").exists()


def test_a_kernel_whose_module_building_tree_is_gone(tree: Path, tmp_path: Path) -> None:
    cell = write_cell(tmp_path, f"tree: {tree}")
    store = Store(tmp_path / "store", Silent())
    kernel = build_kernel(store, cell)
    assert store.remove(DEVEL, kernel.digest)
    again = build_kernel(store, cell)
    assert (again, again.devel.is_dir()) == (kernel, True)


def test_what_the_compiler_refuses_is_shown(tree: Path, tmp_path: Path) -> None:
    (tree / "init/main.c").write_text("int start = ;\n")
    write_cell(tmp_path, f"tree: {tree}")
    done = kernelvm_build(tmp_path, tmp_path / "store")
    assert done.status == Verdict.BUILD_FAILED.exit_code
    assert "init/main.c:1:13: error: expected expression" in done.stderr
    (tree / "init/main.c").write_text("int start;\n")
    assert kernelvm_build(tmp_path, tmp_path / "store").status == 0


def test_another_release_than_the_vm_config_says(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is compiled, with the part of the name that comes from elsewhere."""
    (tree / "localversion-rt").write_text("-rt5\n")
    (tree / "Makefile").write_text(
        (tree / "Makefile").read_text().replace("echo 6.12.1 >", "echo 6.12.1-rt5-mine >")
    )
    cell = write_cell(tmp_path, f"tree: {tree}", "LOCALVERSION: -mine")
    monkeypatch.setenv("COMPILED", str(tmp_path / "compiled"))
    wrong = replace(cell, kernel=replace(cell.kernel, release="6.12.1"))
    store = Store(tmp_path / "store", Silent())
    with pytest.raises(BuildFailed, match=r"calls itself 6\.12\.1-rt5-mine, not 6\.12\.1\n") as bad:
        build_kernel(store, wrong)
    assert [line.split(None, 1) for line in bad.value.evidence.excerpt.splitlines()] == [
        ["6.12.1", "the source's Makefile"],
        ["-rt5", "the source's file localversion-rt"],
        ["-mine", "CONFIG_LOCALVERSION"],
    ]
    assert not (tmp_path / "compiled").exists()
    right = replace(cell, kernel=replace(cell.kernel, release="6.12.1-rt5-mine"))
    assert build_kernel(store, right).release == "6.12.1-rt5-mine"
    # Of a kernel that is stored already it is known too.
    with pytest.raises(BuildFailed, match="calls itself"):
        build_kernel(store, wrong)


# Compilers


def test_ccache_serves_another_store(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("ccache"):
        pytest.skip("ccache is not installed")
    monkeypatch.setenv("CCACHE_DIR", str(tmp_path / "ccache"))
    write_cell(tmp_path, f"tree: {tree}")
    for store, had in (("one", 0), ("two", 2)):
        done = kernelvm_build(tmp_path, tmp_path / store)
        assert done.status == 0
        assert done.stderr.splitlines()[-2] == f"kernelvm: ccache had {had} of 2 objects"
    one, two = (next(tmp_path.glob(f"{name}/kernels/*/vmlinux")) for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_compiler_of_another_machine(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = write_cell(tmp_path, f"tree: {tree}")
    name = f"{ARCH.toolchain_prefix}gcc"
    gcc = shutil.which("gcc")
    assert gcc
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / name).symlink_to(gcc)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(ToolMissing, match=f"{name} does not compile for mips"):
        build_kernel(Store(tmp_path / "store", Silent()), cell)


def test_an_image_without_the_program_that_makes_it(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is known before anything is compiled."""
    cell = write_cell(tmp_path, f"tree: {tree}")
    cell = replace(cell, kernel=replace(cell.kernel, images=(*cell.kernel.images, "uImage")))
    monkeypatch.setenv("COMPILED", str(tmp_path / "compiled"))
    tools = tmp_path / "bin"
    tools.mkdir()
    places = os.environ["PATH"].split(os.pathsep)
    for program in (each for place in reversed(places) for each in Path(place).glob("*")):
        (tools / program.name).unlink(missing_ok=True)
        (tools / program.name).symlink_to(program)
    (tools / "mkimage").unlink(missing_ok=True)
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(ToolMissing, match="'mkimage' is not installed") as missing:
        build_kernel(Store(tmp_path / "store", Silent()), cell)
    assert "u-boot-tools, or leave out uImage" in missing.value.evidence.next_step
    assert not (tmp_path / "compiled").exists()


# Patches for some versions of the source

PATCH = """\
--- a/init/{name}.c
+++ b/init/{name}.c
@@ -1 +1 @@
-int {symbol};
+int {symbol} = 1;
"""


def test_patches_are_for_versions_of_the_source(tree: Path, tmp_path: Path) -> None:
    """The vm-config says 6.12, the source is 6.12.1."""
    configs = tmp_path / "vm-configs"
    configs.mkdir()
    (configs / "in.patch").write_text(PATCH.format(name="main", symbol="start"))
    (configs / "out.patch").write_text(PATCH.format(name="other", symbol="other"))
    patches = (
        "{file: in.patch, versions: '>=6.12.1,<6.13', config: {IN: y}, features: [in]}, "
        "{file: out.patch, versions: '>=6.12.2', config: {OUT: y}, features: [out]}, "
        "{file: absent.patch, versions: '>=6.13'}"
    )
    for number, source in enumerate((f"tree: {tree}", f"tarball: {pack(tree)}")):
        cell = write_cell(tmp_path, source, patches=patches)
        store = Store(tmp_path / f"store{number}", Silent())
        kernel = build_kernel(store, cell)
        assert (kernel.patches, kernel.features) == (("in",), ("in",))
        assert kernel.config["IN"] == "y"
        assert "OUT" not in kernel.config
        assert find_kernel(store, cell) == kernel
