"""Full disks, killed builders, several at once: nothing half-made, and it works afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.errors import HarnessError, ToolMissing
from pytest_kernelvm.kernel.build.build_directories import NOTE, BuildRequest, open_build_directory
from pytest_kernelvm.kernel.source.mirror import mirrored
from pytest_kernelvm.kernel.source.source import patched, unpacked
from pytest_kernelvm.kernel.source.worktree import read_tree
from pytest_kernelvm.process import spawn
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.store.kinds import BUILDS
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.toolchain.compiler import compiler_version
from tests.unit.test_build_directories import build, contents, from_nothing, write_source
from tests.unit.test_kinds_of_source import write_files
from tests.unit.test_process import wait_until
from tests.unit.test_source import FILES, FITS, make_tarball, write_patch
from tests.unit.test_store import disk_of


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, which is not that of the sources."""
    with disk_of("1m", tmp_path) as directory:
        yield directory


def fill(directory: Path) -> Path:
    """Leave no byte free."""
    filler = directory / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return filler


LARGE = {**FILES, "drivers/large.c": "x" * (2 << 20)}


def left(store: Store) -> list[str]:
    found = (*store.root.glob("tmp/*"), *store.root.glob("sources/*"), *store.root.glob("builds/*"))
    return sorted(str(path.relative_to(store.root)) for path in found)


def test_a_disk_that_gets_full_while_unpacking(disk: Path, tmp_path: Path) -> None:
    store = Store(disk, Silent())
    with pytest.raises(HarnessError, match="the disk of the store is full"):
        unpacked(store, make_tarball(tmp_path / "large.tar.xz", LARGE))
    assert left(store) == []
    assert unpacked(store, make_tarball(tmp_path / "small.tar.xz", FILES)).is_dir()


def test_a_disk_that_gets_full_while_a_tree_is_copied(disk: Path, tmp_path: Path) -> None:
    store = Store(disk, Silent())
    write_files(tmp_path / "linux", LARGE)
    located = read_tree(store, tmp_path / "linux")
    with pytest.raises(HarnessError, match="the disk of the store is full"):
        mirrored(store, located, []).__enter__()
    (tmp_path / "linux/drivers/large.c").write_text("small")
    with mirrored(store, read_tree(store, tmp_path / "linux"), []) as mirror:
        assert (mirror.tree / "drivers/large.c").read_text() == "small"


def test_a_disk_that_gets_full_while_building(disk: Path) -> None:
    store = Store(disk, Silent())
    tree = write_source(disk / "sources" / "plain" / "tree")
    build_request = BuildRequest(
        tree=tree, family="f", series="6.12", state="s", config="CONFIG_A=y\n", toolchain="gcc"
    )

    def fill_it() -> None:
        with open_build_directory(store, build_request, "the kernel") as build_directory:
            (build_directory.objects / "vmlinux").write_bytes(bytes(2 << 20))

    with pytest.raises(HarnessError, match="the disk of the store is full"):
        fill_it()
    assert left(store) == ["sources/plain"]
    made, _ = build(store, build_request)
    assert made == ["one", "two"]


def test_a_disk_that_is_full_already(disk: Path) -> None:
    store = Store(disk, Silent())
    tree = write_source(disk / "sources" / "plain" / "tree")
    build_request = BuildRequest(
        tree=tree, family="f", series="6.12", state="s", config="CONFIG_A=y\n", toolchain="gcc"
    )
    filler = fill(disk)
    with pytest.raises(HarnessError, match="full"):
        build(store, build_request)
    filler.unlink()
    assert build(store, build_request)[0] == ["one", "two"]


def test_a_store_on_another_file_system(disk: Path, tmp_path: Path) -> None:
    """Links do not lead from one file system to another; sources are copied there."""
    store = Store(disk / "store", Silent())
    tarball = make_tarball(tmp_path / "linux.tar.xz", FILES)
    tree = patched(store, tarball, [write_patch(tmp_path, "p", FITS)])
    assert "check_cookie" in (tree / "arch/mips/prom.c").read_text()
    write_files(tmp_path / "linux", FILES)
    with mirrored(store, read_tree(store, tmp_path / "linux"), []) as mirror:
        assert (mirror.tree / "Kconfig").is_file()


BUILDING = """
import sys, time
from pathlib import Path
from pytest_kernelvm.kernel.build.build_directories import BuildRequest, open_build_directory
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.progress import Silent
from tests.unit.test_build_directories import make

root, tree, config, go = sys.argv[1:]
names = {"family": "f", "series": "6.12", "state": "s", "toolchain": "gcc"}
build_request = BuildRequest(tree=Path(tree), config=config, **names)
store = Store(Path(root), Silent())
with open_build_directory(store, build_request, "the kernel") as build_directory:
    (build_directory.objects / "one.o").write_text("half")
    print("building", flush=True)
    while not Path(go).exists():
        time.sleep(0.01)
    (build_directory.objects / "one.o").unlink()
    print("made", *make(build_directory), flush=True)
"""


@pytest.fixture
def build_request(tmp_path: Path) -> BuildRequest:
    tree = write_source(tmp_path / "store" / "sources" / "plain" / "tree")
    return BuildRequest(
        tree=tree, family="f", series="6.12", state="s", config="CONFIG_A=y\n", toolchain="gcc"
    )


def child(build_request: BuildRequest, directory: Path, name: str) -> list[str]:
    go = str(directory / "go")
    return [
        sys.executable,
        "-c",
        BUILDING,
        str(directory / "store"),
        str(build_request.tree),
        name,
        go,
    ]


def test_after_sigkill_it_is_built_from_nothing(
    build_request: BuildRequest, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with spawn(child(build_request, tmp_path, build_request.config), output=log) as builder:
        wait_until(lambda: "building" in log.read_text(), "the build to begin")
        os.kill(builder.pid, signal.SIGKILL)
        assert builder.wait(10) == -signal.SIGKILL
    store = Store(tmp_path / "store", Silent())
    kept = store.path(BUILDS, build_request.name)
    assert (kept / "tree/.objects/one.o").read_text() == "half"
    assert not (kept / NOTE).exists()
    made, build_directory = build(store, build_request)
    assert made == ["one", "two"]
    assert contents(build_directory) == from_nothing(build_request, tmp_path / "other")


def test_two_configurations_at_once(build_request: BuildRequest, tmp_path: Path) -> None:
    logs = tmp_path / "one", tmp_path / "two"
    configs = build_request.config, "CONFIG_B=y\n"
    with (
        spawn(child(build_request, tmp_path, configs[0]), output=logs[0]) as one,
        spawn(child(build_request, tmp_path, configs[1]), output=logs[1]) as two,
    ):
        for log in logs:
            wait_until(lambda log=log: "building" in log.read_text(), "both to begin")  # type: ignore[misc]
        (tmp_path / "go").touch()
        assert (one.wait(60), two.wait(60)) == (0, 0)
    for number, config in enumerate(configs):
        assert logs[number].read_text().splitlines()[-1] == "made one two"
        each = replace(build_request, config=config)
        store = Store(tmp_path / "store", Silent())
        assert contents(build(store, each)[1]) == from_nothing(each, tmp_path / f"other{number}")


def test_an_unknown_compiler() -> None:
    absent = replace(ARCHES["mips"], toolchain_prefix="mips-nowhere-")
    with pytest.raises(ToolMissing, match="'mips-nowhere-gcc' is not installed") as missing:
        compiler_version(absent)
    assert missing.value.evidence.next_step == "apt-get install gcc-mips-linux-gnu"
