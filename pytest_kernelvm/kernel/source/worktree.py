"""A working tree as a source: named by what is in it now, never written into."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.fetch.tree_copy import content_digest, update_copy
from pytest_kernelvm.process import run
from pytest_kernelvm.store.digest import digest_of
from pytest_kernelvm.store.kinds import TREE_DIGESTS
from pytest_kernelvm.store.store import StagingDirectory, Store
from pytest_kernelvm.store.writing import write_whole

# Files with these suffixes do not decide a configuration, unless they are below scripts/, whose
# programs Kconfig runs. All other files may.
_COMPILED = (".c", ".h", ".S", ".s", ".dts", ".dtsi", ".rst", ".txt", ".yaml", ".json")

# What make leaves in a tree that it was run in without O= (Makefile, outputmakefile).
_LEFTOVERS = (".config", "include/config", "include/generated/autoconf.h")

# Files of editors and tools, which are never compiled.
_IGNORED_SUFFIXES = ("~", ".orig", ".rej", ".swp", ".swo")
_IGNORED_NAMES = frozenset({"tags", "TAGS", "cscope.out", "cscope.files", "compile_commands.json"})

# Two changes of a file within the clock's granularity give it the same times. A file that was
# changed less than this before it was read is read again.
RACY_S = 2.0
WALK_TIMEOUT_S = 600.0
MOST_WALKERS = 4
# To read so many files takes less time than to record their digests.
FEW = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkingTree:
    """A working tree in the state that it was found in.

    Attributes:
        path: Absolute.
        files: Digests of its files by relative path.
        digest: Of all of them.
        config_digest: Of those that can decide a configuration.
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

    def unpack(self, store: Store, work: StagingDirectory, show: Callable[[str], None]) -> None:  # noqa: ARG002
        """Copy its files to `work.entry/tree`.

        Raises BadInput if the files change meanwhile.

        Args:
            store: Not needed here.
            work: Where they are copied to.
            show: Called with how much is done, in words.
        """
        show("copying")
        update_copy(self.path, work.entry / "tree", self.files, {})


def read_tree(store: Store, path: Path, where: str = "") -> WorkingTree:
    """Return the state of a working tree.

    A file whose size, times and inode are those of last time is not read again. What was read is
    recorded in the store, unless that is only a few files.

    Args:
        store: Where that is recorded.
        path: The working tree.
        where: File and line that name it, for errors.

    Returns:
        The state.

    Raises:
        BadInput: It is not a directory, or make was run in it without O=.
    """
    path = path.absolute()
    if not path.is_dir():
        raise BadInput(f"the tree {path} is not a directory", Evidence(where=(where,)))
    _refuse_leftovers(path, where)
    noted = store.place(TREE_DIGESTS) / f"{digest_of(str(path))}.json"
    with ThreadPoolExecutor(1) as pool:
        # find(1) walks meanwhile, in a process of its own.
        reading = pool.submit(_known, noted)
        lines = _stamped(path)
        known = reading.result()
    files, fresh = _fresh(path, lines, known)
    if len(fresh.keys() ^ known.keys()) > FEW:
        # If nothing can be written, all files are read again the next time.
        with contextlib.suppress(OSError):
            write_whole(noted, json.dumps(fresh).encode())
    deciding = {name: digest for name, digest in files.items() if _may_decide(name)}
    return WorkingTree(
        path=path,
        files=files,
        digest=_digest_of_all(files),
        config_digest=_digest_of_all(deciding),
    )


def _refuse_leftovers(path: Path, where: str) -> None:
    for name in _LEFTOVERS:
        if (path / name).exists():
            raise BadInput(
                f"{path} contains files of an earlier build: {name}",
                Evidence(
                    expected="a tree in which make was not run, or only with O=",
                    where=tuple(place for place in (where, str(path / name)) if place),
                    next_step=f"make -C {path} mrproper, or take a `git worktree` of it",
                ),
            )


def _digest_of_all(files: Mapping[str, str]) -> str:
    """As store.digest_of, in a third of the time; neither name nor digest has a zero byte in it."""
    text = "\0".join(sorted(map("\0".join, files.items())))
    return hashlib.sha256(os.fsencode(text)).hexdigest()


def _may_decide(name: str) -> bool:
    return name.startswith("scripts/") or not name.endswith(_COMPILED)


def _known(noted: Path) -> dict[str, str]:
    try:
        known = json.loads(noted.read_bytes())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _stamped(path: Path) -> list[str]:
    """Return a line for each file: size, times, inode, mode, kind, and behind them its name."""
    shares = _shares(path)
    with ThreadPoolExecutor(len(shares)) as pool:
        found = pool.map(lambda names: _stamped_below(path, names), shares)
        return [line for lines in found for line in lines]


def _stamped_below(path: Path, names: Iterable[str]) -> list[str]:
    argv: list[str | Path] = ["find", *(f"./{name}" for name in names), "-name", ".git", "-prune"]
    argv += ["-o", "!", "-type", "d", "-printf", r"%s %T@ %C@ %i %m %y %p\0"]
    # find(1) fails for files that vanish meanwhile; they do not count.
    done = run(argv, cwd=path, timeout_s=WALK_TIMEOUT_S, check=False)
    return os.fsdecode(done.raw_stdout).split("\0")[:-1]


def _shares(path: Path) -> list[list[str]]:
    """Divide what is in a directory into a few shares that take about the same time to walk."""
    with os.scandir(path) as entries:
        # A directory has a link for each below it.
        sizes = {entry.name: entry.stat(follow_symlinks=False).st_nlink for entry in entries}
    shares: list[list[str]] = [[] for _processor in range(min(os.cpu_count() or 1, MOST_WALKERS))]
    walked = [0] * len(shares)
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        least = walked.index(min(walked))
        shares[least].append(name)
        walked[least] += sizes[name]
    return [share for share in shares if share] or [["."]]


def _fresh(
    path: Path, lines: Iterable[str], known: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Return digests of the files by name, and what to note: digests by the files' lines."""
    racy = time.time() - RACY_S
    files: dict[str, str] = {}
    noted: dict[str, str] = {}
    unread: dict[str, str] = {}
    for line in lines:
        _size, modified, changed, _inode, _mode, kind, place = line.split(" ", 6)
        name = place[2:]
        if kind not in "fl" or _ignored(name):
            continue
        digest = known.get(line, "")
        files[name] = digest
        if digest:
            noted[line] = digest
        else:
            unread[name] = line if max(float(modified), float(changed)) < racy else ""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = pool.map(lambda name: _digest(path / name), unread)
        for (name, line), digest in zip(unread.items(), digests, strict=True):
            if digest:
                files[name] = digest
            else:
                del files[name]
            if digest and line:
                noted[line] = digest
    return files, noted


def _digest(path: Path) -> str:
    """Return a file's digest, empty if it is gone."""
    try:
        return content_digest(path)
    except FileNotFoundError:
        return ""


def _ignored(name: str) -> bool:
    last = name.rpartition("/")[2]
    return last.endswith(_IGNORED_SUFFIXES) or last in _IGNORED_NAMES
