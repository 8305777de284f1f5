"""What the next build in a build directory need not make, install or copy again.

Most edits do not change the headers for programs, and many do not change modules. These are then
linked from the kernel that was made in the directory before.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.kernel.build.build_directories import BuildDirectory
from pytest_kernelvm.process import run
from pytest_kernelvm.store.digest import Digest, file_digest
from pytest_kernelvm.store.kinds import KERNELS
from pytest_kernelvm.store.store import Store

LINK_TIMEOUT_S = 300.0
# Files with these suffixes do not change headers for programs, unless they are in these places.
_CODE = (".c", ".h", ".S", ".s", ".dts", ".dtsi", ".rst", ".txt", ".yaml")
_SEEN = ("scripts/", "usr/", "tools/include/")

# What `make modules_install` puts beside the modules, and depmod reads.
_LISTS = ("modules.order", "modules.builtin", "modules.builtin.modinfo")


@dataclass(frozen=True, kw_only=True, slots=True)
class PreviousKernel:
    """The kernel that was made last in a build directory.

    Attributes:
        entry: In the store.
        changed: Relative paths of the source's files that differ since.
        modules: By file, what shows whether modules are the same.
    """

    entry: Path
    changed: tuple[str, ...]
    modules: Mapping[str, str]

    @property
    def has_headers(self) -> bool:
        """Whether its headers are those of the source as it is now."""
        return not any(_decides_headers(name) for name in self.changed)


def previous_kernel(store: Store, build_directory: BuildDirectory) -> PreviousKernel | None:
    """Return what was made last in a build directory.

    Args:
        store: Where the kernel is.
        build_directory: As it was opened.

    Returns:
        The kernel; None if that build failed, or if the store does not have it any more.
    """
    try:
        noted = json.loads(build_directory.made)
        entry = store.find(KERNELS, Digest(noted["kernel"]))
        modules = dict(noted["modules"])
    except (ValueError, KeyError, TypeError):
        return None
    if entry is None or build_directory.changed is None:
        return None
    return PreviousKernel(entry=entry, changed=build_directory.changed, modules=modules)


def record_of(kernel: str, objects: Path) -> str:
    """Return what is to be recorded about a build directory that a kernel was just made in.

    Args:
        kernel: The kernel's digest.
        objects: The build directory.
    """
    return json.dumps({"kernel": kernel, "modules": module_stamps(objects)})


def module_stamps(objects: Path) -> dict[str, str]:
    """Return what shows whether modules have to be installed again, by file.

    Args:
        objects: The build directory.
    """
    found: dict[str, str] = {}
    for name in _LISTS:
        if (objects / name).is_file():
            found[name] = file_digest(objects / name)
    order = objects / "modules.order"
    for line in order.read_text().splitlines() if order.is_file() else ():
        about = (objects / line).with_suffix(".ko").stat()
        found[line] = f"{about.st_size} {about.st_mtime_ns}"
    return found


def link_tree(source: Path, to: Path) -> None:
    """Make a directory whose files are those of another, which never change.

    Args:
        source: Nothing in it may change later: both names are of one file.
        to: The directory to make; it must not exist.
    """
    run(["cp", "-al", source, to], timeout_s=LINK_TIMEOUT_S)


def link_outputs(previous: PreviousKernel, entry: Path, names: Iterable[str]) -> None:
    """Give an entry some outputs of a previous kernel.

    Args:
        previous: The kernel that has the same outputs.
        entry: The directory in the store that gets them.
        names: Of files or directories in the entry.
    """
    for name in names:
        link_tree(previous.entry / name, entry / name)


def _decides_headers(name: str) -> bool:
    return not name.endswith(_CODE) or name.startswith(_SEEN) or "uapi" in name
