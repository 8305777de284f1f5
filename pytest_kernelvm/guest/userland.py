"""Real tools for a guest, beside ours: kmod with a shell, or busybox.

They are those of Debian 12. Where Debian has no port for an architecture, busybox is built from
Debian's source, patches and configuration, with the cross compiler that builds the kernel.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.errors import BadInput, Evidence, HarnessError
from pytest_kernelvm.fetch.debian import (
    fetch_source,
    host_arch,
    make_source,
    unpack_packages,
    unpack_source,
)
from pytest_kernelvm.guest import cpio
from pytest_kernelvm.modules.closure import Closure
from pytest_kernelvm.modules.pruned import pruned_metadata
from pytest_kernelvm.modules.tree import ModuleTree
from pytest_kernelvm.process import run
from pytest_kernelvm.store.digest import digest_of
from pytest_kernelvm.store.kinds import USERLANDS
from pytest_kernelvm.store.store import StagingDirectory, Store

# Part of every digest. It changes when a userland is made in another way.
RECIPE = 1
SUITE = "bookworm"

MODULE_TOOLS = ("modprobe", "insmod", "rmmod", "lsmod", "modinfo", "depmod")

# kmod's commands (modprobe.d(5)) are for a shell, which in Debian is dash.
KMOD_PACKAGES = (
    "kmod",
    "dash",
    "libatomic1",
    "libc6",
    "libkmod2",
    "liblzma5",
    "libssl3",
    "libzstd1",
)
KMOD_PROGRAMS = ("bin/kmod", "bin/dash")
BUSYBOX_PACKAGES = ("busybox-static",)
BUSYBOX_SOURCE = "busybox"
BUSYBOX_CONFIG = "debian/config/pkg/static"

# What kmod's modprobe reads; depmod writes it.
INDEXES = ("dep", "alias", "symbols", "builtin", "builtin.alias")

TOOL_TIMEOUT_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Userland:
    """A guest's programs.

    Attributes:
        name: `kmod` or `busybox`.
        root: The directory that becomes the guest's /.
    """

    name: str
    root: Path


def obtain_userland(store: Store, arch: Arch, name: str) -> Userland:
    """Return a userland, made unless the store has it.

    Raises ToolMissing if it can't be fetched, BuildFailed with the compiler's words.

    Args:
        store: Where it is kept.
        arch: The guest's architecture.
        name: `kmod` or `busybox`.

    Raises:
        BadInput: The architecture has none of that name.
    """
    if name == "kmod" and not arch.debian_arch:
        raise BadInput(
            f"Debian has no kmod for {arch.name}",
            Evidence(
                expected="userland: busybox, which is built from source",
                next_step="take busybox, or none for our own modprobe",
            ),
        )
    make = _kmod if name == "kmod" else _busybox if arch.debian_arch else _built_busybox
    digest = digest_of({"recipe": RECIPE, "name": name, "arch": arch.name, "suite": SUITE})
    label = f"{name} for {arch.name}"

    def fill(work: StagingDirectory) -> dict[str, Any]:
        store.progress.say(f"getting {label}")
        root = work.entry / "root"
        return {"packages": list(make(store, arch, work, root))}

    return Userland(name=name, root=store.obtain(USERLANDS, digest, fill, label=label) / "root")


def entries_of(userland: Userland, tree: ModuleTree, closure: Closure) -> list[cpio.Entry]:
    """Return what a userland adds to an archive: its files and links, and indexes for kmod.

    Args:
        userland: The programs.
        tree: The module tree of the closure.
        closure: The modules in the archive.
    """
    entries = []
    for path in sorted(userland.root.rglob("*")):
        name = str(path.relative_to(userland.root))
        if path.is_symlink():
            entries.append(cpio.link(name, str(path.readlink())))
        elif path.is_file():
            entries.append(cpio.file(name, path.read_bytes(), path.stat().st_mode & 0o777))
    if userland.name == "kmod" and closure.modules:
        directory = f"lib/modules/{closure.release}"
        for file, content in binary_indexes(tree, closure).items():
            entries.append(cpio.file(f"{directory}/{file}", content))
    return entries


def binary_indexes(tree: ModuleTree, closure: Closure) -> dict[str, bytes]:
    """Return the indexes that kmod reads, for a tree that holds only a closure's modules.

    Args:
        tree: The module tree of the closure.
        closure: The modules.

    Returns:
        The contents by file name, as the host's depmod writes them.
    """
    with tempfile.TemporaryDirectory(prefix="kernelvm-") as name:
        directory = Path(name, "lib/modules", closure.release)
        for module in closure.modules:
            path = directory / module.file.relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(module.path)
        directory.mkdir(parents=True, exist_ok=True)
        for file, content in pruned_metadata(tree, closure, for_depmod=True).items():
            (directory / file).write_bytes(content)
        # An empty configuration: the host's may put other directories first.
        empty = Path(name, "depmod.d")
        empty.mkdir()
        argv: list[str | Path] = ["depmod", "--basedir", name, "--config", empty]
        run([*argv, closure.release], timeout_s=TOOL_TIMEOUT_S)
        files = [f"modules.{index}.bin" for index in INDEXES]
        return {file: (directory / file).read_bytes() for file in files}


def _kmod(store: Store, arch: Arch, work: StagingDirectory, root: Path) -> Iterable[str]:
    unpacked = work.directory / "unpacked"
    names = unpack_packages(
        store, KMOD_PACKAGES, arch=arch.debian_arch, suite=SUITE, directory=unpacked
    )
    for program in KMOD_PROGRAMS:
        _copy_with_libraries(arch, unpacked, Path(program), root)
    _link_tools(root, "/bin/kmod", "/bin/dash")
    return names


def _busybox(store: Store, arch: Arch, work: StagingDirectory, root: Path) -> Iterable[str]:
    unpacked = work.directory / "unpacked"
    names = unpack_packages(
        store, BUSYBOX_PACKAGES, arch=arch.debian_arch, suite=SUITE, directory=unpacked
    )
    _copy(unpacked / "bin/busybox", root / "bin/busybox")
    _link_tools(root, "/bin/busybox", "/bin/busybox")
    return names


def _built_busybox(store: Store, arch: Arch, work: StagingDirectory, root: Path) -> Iterable[str]:
    source = work.directory / "busybox"
    files = fetch_source(store, BUSYBOX_SOURCE, suite=SUITE)
    unpack_source(files, source)
    libc = work.directory / "libc"
    names = unpack_packages(store, arch.debian_libc, arch=host_arch(), suite=SUITE, directory=libc)
    prefix = libc / "usr" / arch.toolchain_prefix.rstrip("-")
    shutil.copy2(source / BUSYBOX_CONFIG, source / ".config")
    libraries = f"-B{prefix}/lib"
    argv = ["make", f"--directory={source}", f"-j{os.cpu_count() or 1}"]
    argv += [f"ARCH={arch.linux_arch}", f"CROSS_COMPILE={arch.toolchain_prefix}"]
    argv += [f"CONFIG_EXTRA_CFLAGS=-isystem {prefix}/include {libraries}"]
    argv += [f"CONFIG_EXTRA_LDFLAGS={libraries} -L{prefix}/lib"]
    # As debian/rules has it; otherwise busybox has the time of its build in it.
    (dsc,) = (file for file in files if file.suffix == ".dsc")
    argv += [f"BB_EXTRA_VERSION=Debian {dsc.stem.partition('_')[2]}"]
    make_source(
        f"busybox for {arch.name}",
        [*argv, "busybox"],
        log=work.directory / "make.log",
        env={"KCONFIG_NOTIMESTAMP": "1"},
    )
    _copy(source / "busybox", root / "bin/busybox")
    _link_tools(root, "/bin/busybox", "/bin/busybox")
    return [*(file.name for file in files), *names]


def _copy(source: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, path)


def _link_tools(root: Path, tools: str, shell: str) -> None:
    (root / "sbin").mkdir(exist_ok=True)
    for name in MODULE_TOOLS:
        (root / "sbin" / name).symlink_to(tools)
    (root / "bin/sh").symlink_to(shell)


def _copy_with_libraries(arch: Arch, unpacked: Path, program: Path, root: Path) -> None:
    """Take a program, its interpreter, and all shared libraries that they need."""
    pending = [program]
    while pending:
        path = pending.pop()
        if (root / path).exists():
            continue
        _copy(unpacked / path, root / path)
        pending += _needed(arch, unpacked, path)


def _needed(arch: Arch, unpacked: Path, path: Path) -> Iterable[Path]:
    readelf = f"{arch.toolchain_prefix}readelf"
    argv: list[str | Path] = [readelf, "--dynamic", "--program-headers", unpacked / path]
    text = run(argv, timeout_s=TOOL_TIMEOUT_S).stdout
    for interpreter in re.findall(r"Requesting program interpreter: /([^]]+)]", text):
        yield Path(interpreter)
    for library in re.findall(r"\(NEEDED\)\s+Shared library: \[([^]]+)]", text):
        found = sorted(unpacked.rglob(library))
        if not found:
            raise HarnessError(
                f"/{path} needs {library}, which no package brings",
                Evidence(next_step="KMOD_PACKAGES lacks the one that has it"),
            )
        yield found[0].relative_to(unpacked)
