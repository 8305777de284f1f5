"""UAPI headers and nolibc of a source, without configuring or compiling its kernel."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.config.sources import Source
from pytest_kernelvm.kernel.source.source import locate, unpacked
from pytest_kernelvm.process import run
from pytest_kernelvm.store.digest import digest_of
from pytest_kernelvm.store.kinds import HEADERS
from pytest_kernelvm.store.store import StagingDirectory, Store

MAKE_TIMEOUT_S = 600.0


def headers_of_source(store: Store, package: str, arch: Arch) -> Path:
    """Return a directory with `headers` and `nolibc` of an installed Debian source package.

    Raises ToolMissing if the package is not installed.

    Args:
        store: Where it is put.
        package: Name of the package.
        arch: The architecture.

    Returns:
        The directory.
    """
    located = locate(store, Source(kind="debian", value=package, where=""))

    def make(work: StagingDirectory) -> dict[str, Any]:
        tree = unpacked(store, located)
        store.progress.say(f"making the headers of {package}")
        objects = work.directory / "objects"
        argv = ["make", f"--directory={tree}", f"O={objects}", f"ARCH={arch.linux_arch}", "headers"]
        run(argv, timeout_s=MAKE_TIMEOUT_S, log=work.directory / "make.log")
        copy_headers(objects / "usr/include", tree, work.entry)
        return {"source": located.label, "arch": arch.name}

    digest = digest_of([located.digest, arch.linux_arch])
    return store.obtain(HEADERS, digest, make, label=f"the headers of {package}")


def copy_headers(made: Path, tree: Path, entry: Path) -> None:
    """Copy what `make headers` made, and nolibc, into an entry.

    Args:
        made: usr/include of the build directory.
        tree: The source.
        entry: Where they are put.
    """
    shutil.copytree(made, entry / "headers", ignore=_only_headers)
    shutil.copytree(tree / "tools/include/nolibc", entry / "nolibc", ignore=_only_headers)


def _only_headers(directory: str, names: list[str]) -> list[str]:
    return [n for n in names if not (n.endswith(".h") or Path(directory, n).is_dir())]
