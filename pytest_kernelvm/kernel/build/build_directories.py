"""Build directories in the store, so that a kernel much like an earlier one costs little.

`build_kernel` uses them. A kernel that differs from an earlier one in a few symbols or patches of
the same source starts from a copy of that one's build directory. After an edit of a working tree
(`tree:`) the same directory is used again. A source of which nothing was built yet starts from a
build of another source of its series (6.12), if there is one. kbuild's own dependency tracking
(.cmd files, include/config/*) decides what is compiled again, in image and modules, and the bytes
are those of a build from nothing.

A build directory is `builds/DIGEST` of the store:

    tree/          the source; its files are links into the store
    tree/.objects  what make is given as O=; being below the source, kbuild writes `..` for it into
                   its notes (Makefile, `srctree := ..`), so that the whole can be copied elsewhere
    files.json     digests of the files of a working tree, as they are in tree/
    made.json      what the last build in it made, if that succeeded (incremental.py)
    note.json      what it was built from, and a digest of its objects' times and sizes: if they
                   were changed since, it is not used; absent while somebody builds in it, and
                   after he was killed: make cannot know then which objects are whole, and it is
                   not used again

A file of the source that changes gets the time of the change, not its own: an object made from
another version of it may be younger than both.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.errors import BuildFailed
from pytest_kernelvm.fetch.tree_copy import (
    FILES,
    OBJECTS,
    digests_below,
    update_copy,
    update_linked_copy,
    update_links,
)
from pytest_kernelvm.kernel.kconfig.dot_config import parse_config
from pytest_kernelvm.process import run
from pytest_kernelvm.store.digest import Digest, digest_of, stamps_digest
from pytest_kernelvm.store.gc import evict
from pytest_kernelvm.store.kinds import BUILDS, Limits
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.store.writing import remove_tree, write_whole

NOTE = BUILDS.note
MADE = "made.json"
COPY_TIMEOUT_S = 1800.0

# With more different symbols than this, a copy costs more time than it saves.
FARTHEST = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """What is to be built.

    Attributes:
        tree: The source with its patches, in the store.
        family: Names the source without its patches; builds of the same family are copied first.
        series: The first two numbers of its version. Builds of other families are copied if they
            are of the same series.
        state: Names the tree; the files of a working tree change under the same name.
        config: The final .config.
        toolchain: Names architecture, compiler and make's variables.
        files: Digests of the files, by relative path, of a tree whose files are replaced now and
            then; None for a tree that never changes.
    """

    tree: Path
    family: str
    series: str
    state: str
    config: str
    toolchain: str
    files: Mapping[str, str] | None = None

    @property
    def name(self) -> Digest:
        """The digest that names its build directory."""
        return digest_of([self.family, self.state, self.config, self.toolchain])


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildDirectory:
    """A build directory, ours until the context is left.

    Attributes:
        tree: The source.
        objects: make's O=, with the .config in it.
        changed: Relative paths of the source's files that differ from those it was last built from;
            None if it never was.
        parent: Name of the build directory that it is a copy of, empty for none.
        made: What the last build in it has recorded of what it made, empty unless it succeeded.
    """

    tree: Path
    objects: Path
    changed: tuple[str, ...] | None
    parent: str
    made: str = ""

    def record_made(self, text: str) -> None:
        """Record what was made, for the next build.

        Args:
            text: The file that a later build compares with.
        """
        write_whole(self.tree.with_name(MADE), text.encode())


@contextlib.contextmanager
def open_build_directory(
    store: Store, request: BuildRequest, label: str
) -> Iterator[BuildDirectory]:
    """Give the build directory for a kernel; it stays in the store for the next build.

    It stays after a BuildFailed too, as make left only whole objects. After any other exception it
    is removed.

    Args:
        store: Where it is.
        request: What is to be built.
        label: What is built, in words, for those who wait.

    Yields:
        The directory, with source and .config in it.

    Raises:
        BuildFailed: As raised in the context.
    """
    name = request.name
    with store.lock(f"{BUILDS}-{name}", label), store.disk_errors():
        directory = store.path(BUILDS, name)
        parent = _create_unless_whole(store, request, directory)
        (directory / NOTE).unlink(missing_ok=True)
        try:
            yield _prepared(request, directory, parent)
        except BuildFailed:
            _record(request, directory)
            raise
        except BaseException:
            remove_tree(directory)
            raise
        _record(request, directory)
    evict_build_directories(store)


def _create_unless_whole(store: Store, request: BuildRequest, directory: Path) -> str:
    """Make a build directory unless it can be used as it is; return whose copy it is, if any."""
    if (directory / NOTE).is_file():
        if _is_unchanged(directory):
            return ""
        store.progress.say(f"{BUILDS}/{directory.name[:16]} was changed by somebody else: not used")
    return _create(store, request, directory)


def _prepared(request: BuildRequest, directory: Path, parent: str) -> BuildDirectory:
    """Bring source and .config of a build directory up to date."""
    objects = directory / "tree" / OBJECTS
    is_new = not objects.is_dir()
    made = _take_text(directory / MADE)
    changed = _update_source(request, directory)
    objects.mkdir(exist_ok=True)
    _put_config(objects / ".config", request.config)
    return BuildDirectory(
        tree=directory / "tree",
        objects=objects,
        changed=None if is_new else changed,
        parent=parent,
        made=made,
    )


def _is_unchanged(directory: Path) -> bool:
    """Whether the objects have the sizes and times that the last build left: make trusts times."""
    try:
        stamps = json.loads((directory / NOTE).read_bytes()).get("stamps")
        return stamps in (None, stamps_digest(directory / "tree" / OBJECTS, without=""))
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _take_text(path: Path) -> str:
    try:
        text = path.read_text()
    except OSError:
        return ""
    path.unlink()
    return text


def _record(request: BuildRequest, directory: Path) -> None:
    noted = {
        "family": request.family,
        "series": request.series,
        "toolchain": request.toolchain,
        "config": parse_config(request.config),
        "stamps": stamps_digest(directory / "tree" / OBJECTS, without=""),
        # The source costs nothing: its files are links.
        "size_bytes": _disk_bytes(directory / "tree" / OBJECTS),
    }
    write_whole(directory / NOTE, json.dumps(noted, sort_keys=True).encode())


def _put_config(path: Path, text: str) -> None:
    """Leave the file alone if it says this already: its time decides whether Kconfig runs again."""
    if not (path.is_file() and path.read_text() == text):
        path.write_text(text)


def _create(store: Store, request: BuildRequest, directory: Path) -> str:
    """Make the directory as a copy of the nearest one, or empty; return whose copy it is."""
    remove_tree(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with store.work(f"{BUILDS}-{request.name}") as work:
        work.entry.mkdir()
        parent = _copy_nearest(store, request, work.entry)
        if not parent:
            run(["cp", "-al", request.tree, work.entry / "tree"], timeout_s=COPY_TIMEOUT_S)
            if request.files is not None:
                _note_files(request, work.entry)
        work.entry.rename(directory)
    return parent


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class _Candidate:
    """A build directory that may be copied; the smallest one is the nearest.

    Attributes:
        is_foreign: Whether it is of another source.
        distance: How many symbols differ.
        directory: The build directory.
    """

    is_foreign: bool
    distance: int
    directory: Path


def _copy_nearest(store: Store, request: BuildRequest, entry: Path) -> str:
    """Copy the nearest build directory that is whole; return its name, empty if there is none."""
    near = sorted(_candidates(store, request))
    # First those that nobody holds. Then wait: a process that copies one needs seconds, a build
    # from nothing takes minutes. There is no deadlock, as a builder's directory has no note.
    for waits in (False, True):
        for each in near:
            name = f"{BUILDS}-{each.directory.name}"
            locking = store.lock(name, "a build directory") if waits else store.lock_if_free(name)
            with locking as ours:
                if ours is not False and _copy_candidate(store, request, each, entry):
                    return each.directory.name
    return ""


def _candidates(store: Store, request: BuildRequest) -> Iterator[_Candidate]:
    config = parse_config(request.config)
    for directory, noted in _notes(store):
        is_foreign = noted["family"] != request.family
        if noted["toolchain"] != request.toolchain:
            continue
        if is_foreign and noted.get("series") != request.series:
            continue
        distance = _distance(config, noted["config"])
        if distance <= FARTHEST:
            yield _Candidate(is_foreign=is_foreign, distance=distance, directory=directory)


def _copy_candidate(
    store: Store, request: BuildRequest, candidate: _Candidate, entry: Path
) -> bool:
    """Copy a build directory whose lock is held, if it is whole; return whether it was."""
    directory = candidate.directory
    if not ((directory / NOTE).is_file() and _is_unchanged(directory)):
        return False
    of = " of another source" if candidate.is_foreign else ""
    store.progress.say(f"starting from a build{of} that differs in {candidate.distance} symbols")
    copy_build(directory, entry)
    if candidate.is_foreign:
        _adopt(request, entry)
    return True


def _adopt(request: BuildRequest, entry: Path) -> None:
    """Make the copy of another source's build one of ours.

    Files that differ get the present as their time, as the objects may be younger than our source.
    """
    known = entry / FILES
    if request.files is None:
        # _update_source compares the files and replaces those that differ.
        known.unlink(missing_ok=True)
        return
    tree = entry / "tree"
    before = json.loads(known.read_bytes()) if known.is_file() else digests_below(tree)
    update_copy(request.tree, tree, request.files, before)
    _note_files(request, entry)


def copy_build(directory: Path, entry: Path) -> None:
    """Copy a build directory: objects by their bytes (or reflinks), the source by links.

    Args:
        directory: What to copy.
        entry: An empty directory.
    """
    tree = directory / "tree"
    (entry / "tree").mkdir()
    sources = [path for path in tree.iterdir() if path.name != OBJECTS]
    run(["cp", "-al", *sources, entry / "tree"], timeout_s=COPY_TIMEOUT_S)
    argv: list[str | Path] = ["cp", "-a", "--reflink=auto"]
    argv += [tree / OBJECTS, entry / "tree" / OBJECTS]
    run(argv, timeout_s=COPY_TIMEOUT_S)
    if (directory / FILES).is_file():
        shutil.copyfile(directory / FILES, entry / FILES)


def _distance(one: dict[str, str], other: dict[str, str]) -> int:
    return len(dict(one.items() ^ other.items()))


def _notes(store: Store) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Give the build directories that are whole, with their notes."""
    for path in store.place(BUILDS).glob(f"*/{NOTE}"):
        with contextlib.suppress(OSError, ValueError):
            noted = json.loads(path.read_bytes())
            if isinstance(noted, dict) and {"family", "toolchain", "config"} <= noted.keys():
                yield path.parent, noted


def evict_build_directories(store: Store, *, limits: Limits = BUILDS.limits) -> tuple[str, ...]:
    """Remove the build directories that were not used for longest, until they are within limits.

    The last one of each source and toolchain goes last: without it the next build of them would
    begin with nothing. What somebody builds in stays.

    Args:
        store: Where they are.
        limits: Others than those of the registry.

    Returns:
        Names of those removed.
    """
    newest: dict[tuple[str, str], tuple[float, str]] = {}
    for path, noted in _notes(store):
        key = noted["family"], noted["toolchain"]
        newest[key] = max(newest.get(key, (0.0, "")), (_mtime(path / NOTE), path.name))
    last = {name for _used_s, name in newest.values()}
    return tuple(item.digest for item in evict(store, BUILDS, limits=limits, last=last))


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _disk_bytes(directory: Path) -> int:
    """Return what the files of a directory cost."""
    total = 0
    for below, _names, files in os.walk(directory):
        for name in files:
            total += os.lstat(f"{below}/{name}").st_blocks * 512
    return total


def _update_source(request: BuildRequest, directory: Path) -> tuple[str, ...]:
    tree = directory / "tree"
    if request.files is None:
        return update_linked_copy(request.tree, tree)
    before = json.loads((directory / FILES).read_bytes())
    changed = update_links(request.tree, tree, request.files, before)
    if changed:
        _note_files(request, directory)
    return changed


def _note_files(request: BuildRequest, directory: Path) -> None:
    """Note the digests of the files; a mirror has done so already, and writes its notes anew."""
    beside = request.tree.with_name(FILES)
    if beside.is_file():
        (directory / FILES).unlink(missing_ok=True)
        (directory / FILES).hardlink_to(beside)
    else:
        write_whole(directory / FILES, json.dumps(request.files).encode())
