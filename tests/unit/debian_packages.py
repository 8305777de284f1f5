"""Debian's packages of other machines and suites, for tests; the host's apt stays as it is."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_kernelvm.errors import BadInput, ToolMissing
from pytest_kernelvm.fetch.apt import Package
from pytest_kernelvm.fetch.debian import download, find_package, host_arch, unpack_deb
from pytest_kernelvm.fetch.kernel_packages import kernel_packages
from pytest_kernelvm.process import run
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.store.digest import digest_of
from pytest_kernelvm.store.kinds import Form, Kind
from pytest_kernelvm.store.store import StagingDirectory, Store, default_store

# Below the store, from one run to the next.
KIND = Kind(
    name="debian-packages",
    what="unpacked packages of Debian, for tests",
    form=Form.ENTRY,
    sized=False,
)


def unreachable_is_skipped(path: Path | str) -> Path:
    """Return a path, or skip the test with the reason why there is none."""
    if isinstance(path, str):
        pytest.skip(path)
    return path


def _unpacked(store: Store, packages: Sequence[Package]) -> Path:
    """Return a directory with the content of some packages; depmod was run for their modules."""

    def make(work: StagingDirectory) -> dict[str, Any]:
        for package in packages:
            unpack_deb(download(store, package), work.entry)
        shutil.rmtree(work.entry / "boot", ignore_errors=True)
        for tree in work.entry.glob("lib/modules/*"):
            if not (tree / "modules.dep").exists():
                run(["depmod", "-b", work.entry, tree.name], timeout_s=300)
        return {"package": ", ".join(map(str, packages))}

    key = digest_of([package.sha256 for package in packages])
    return store.obtain(KIND, key, make, label="packages of Debian")


@functools.cache
def module_root(suite: str, arch: str, package: str) -> Path | str:
    """Return the root of a kernel package's modules, depmod done, or why it cannot be had."""
    store = Store(default_store(), Silent())
    try:
        found = find_package(store, package, arch=arch, suite=suite)
        return _unpacked(store, kernel_packages(store, found))
    except (ToolMissing, BadInput) as error:
        return error.summary


@functools.cache
def newer_modprobe() -> Path | str:
    """Return a modprobe of Debian 13 (kmod 34) that runs here, or why there is none."""
    store = Store(default_store(), Silent())
    names = ("kmod", "libkmod2", "libc6", "libzstd1", "liblzma5", "libssl3t64", "zlib1g")
    try:
        root = _unpacked(
            store,
            [find_package(store, name, arch=host_arch(), suite="trixie") for name in names],
        )
    except (ToolMissing, BadInput) as error:
        return error.summary
    loader = next(root.glob("usr/lib/*/ld-linux-*.so.*"), None)
    if loader is None:
        return "no loader of Debian 13"
    script = root.with_name(f"{root.name}-modprobe")
    text = (
        f"#!/bin/sh\nexec {loader} --argv0 modprobe --library-path {loader.parent} "
        f'{root}/usr/bin/kmod "$@"\n'
    )
    if not (script.is_file() and script.read_text() == text):
        fresh = script.with_name(f"{script.name}.{os.getpid()}")
        fresh.write_text(text)
        fresh.chmod(0o755)
        fresh.replace(script)
    return script
