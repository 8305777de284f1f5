"""A working tree as a source: named by what is in it now, and never written into."""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.kernel.following import content_digest, files_below, follow_digests
from pytest_kernelvm.kernel.store import Store, Work, digest_of, write_whole

KIND = "worktrees"

# Files of these kinds are compiled or read; whatever else there is may decide a configuration,
# and so may all below scripts/, whose programs Kconfig asks.
_COMPILED = (".c", ".h", ".S", ".s", ".dts", ".dtsi", ".rst", ".txt", ".yaml", ".json")

# What make leaves in a tree that it was run in without O= (Makefile, outputmakefile).
_LEFTOVERS = (".config", "include/config", "include/generated/autoconf.h")

# What editors and tools leave: nobody compiles it.
_IGNORED_SUFFIXES = ("~", ".orig", ".rej", ".swp", ".swo")
_IGNORED_NAMES = frozenset({"tags", "TAGS", "cscope.out", "cscope.files", "compile_commands.json"})

# Whoever changes a file twice within the clock's granularity leaves no trace in its times: files
# that were that young when they were read are read again.
RACY_NS = 2_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkingTree:
    """A working tree in the state that it was found in.

    path: absolute. files: digests of its files by relative path. digest: of all of them.
    config_digest: of those that can decide a configuration.
    """

    path: Path
    files: Mapping[str, str]
    digest: str
    config_digest: str

    @property
    def family(self) -> str:
        """Names the kernels that are built upon each other's objects: those of this directory."""
        return digest_of(["tree", str(self.path)])

    @property
    def label(self) -> str:
        """The tree in words."""
        return str(self.path)

    def unpack(self, store: Store, work: Work, show: Callable[[str], None]) -> None:  # noqa: ARG002
        """Copy its files to `work.entry/tree`. Raises BadInput if they change meanwhile."""
        show("copying")
        follow_digests(self.path, work.entry / "tree", self.files, {})


def read_tree(store: Store, path: Path, where: str = "") -> WorkingTree:
    """Return the state of a working tree.

    A file whose size, times and inode are those of last time is not read again; what was read is
    noted in the store. where: who asked for it.
    Raises BadInput if it is not a directory, or if make was run in it without O=.
    """
    path = path.absolute()
    if not path.is_dir():
        raise BadInput(f"the tree {path} is not a directory", Evidence(where=(where,)))
    for name in _LEFTOVERS:
        if (path / name).exists():
            raise BadInput(
                f"{path} has leftovers of a build in it: {name}",
                Evidence(
                    expected="a tree that make was not run in, or only with O=",
                    where=tuple(place for place in (where, str(path / name)) if place),
                    next_step=f"make -C {path} mrproper, or take a `git worktree` of it",
                ),
            )
    noted = store.root / KIND / f"{digest_of(str(path))}.json"
    known = _known(noted)
    fresh = _fresh(path, known)
    if fresh != known:
        write_whole(noted, json.dumps(fresh).encode())
    files = {name: str(entry[-1]) for name, entry in fresh.items()}
    deciding = {name: digest for name, digest in files.items() if _may_decide(name)}
    return WorkingTree(
        path=path,
        files=files,
        digest=digest_of(files),
        config_digest=digest_of(deciding),
    )


def _may_decide(name: str) -> bool:
    return name.startswith("scripts/") or not name.endswith(_COMPILED)


def _known(noted: Path) -> dict[str, list[int | str]]:
    try:
        known = json.loads(noted.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _fresh(path: Path, known: Mapping[str, list[int | str]]) -> dict[str, list[int | str]]:
    """Return size, times, inode and digest of each file."""
    now = time.time_ns()
    fresh: dict[str, list[int | str]] = {}
    unread = []
    for name, about in files_below(path).items():
        if _ignored(name):
            continue
        stamp = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, about.st_mode]
        before = known.get(name)
        if before and before[:-1] == stamp:
            fresh[name] = before
        elif stat.S_ISREG(about.st_mode) or stat.S_ISLNK(about.st_mode):
            unread.append(name)
            # A time of 0 fits no file: it will be read again.
            racy = now - max(about.st_mtime_ns, about.st_ctime_ns) < RACY_NS
            fresh[name] = [*([0] * len(stamp) if racy else stamp), ""]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = pool.map(lambda name: content_digest(path / name), unread)
        for name, digest in zip(unread, digests, strict=True):
            fresh[name][-1] = digest
    return fresh


def _ignored(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.endswith(_IGNORED_SUFFIXES) or last in _IGNORED_NAMES
