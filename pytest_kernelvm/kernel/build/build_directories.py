"""Build directories that are kept, so that a kernel much like an earlier one costs little.

How to use it: build as ever, with `build_kernel`. A kernel that differs from one built before in a
few symbols or patches of the same source starts from a copy of that one's build directory, and
after an edit of a working tree (`tree:`) the same directory is built on. A source of which nothing
was built yet starts from a build of another one of its series (6.12), if there is one. kbuild's own
dependency tracking (.cmd files, include/config/*) decides what is compiled again, image and modules
both, and the bytes are those of a build from nothing.

A kept build is a directory `builds/DIGEST` of the store:

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
from pytest_kernelvm.fetch.tree_sync import (
    FILES,
    OBJECTS,
    digests_below,
    follow_digests,
    follow_linked,
    link_digests,
)
from pytest_kernelvm.kernel.kconfig.dot_config import parse_config
from pytest_kernelvm.process import run
from pytest_kernelvm.store.digest import Digest, digest_of, stamps_digest
from pytest_kernelvm.store.store import BUILD_NOTE, BUILDS, Store
from pytest_kernelvm.store.writing import remove_tree, write_whole

KIND, NOTE = BUILDS, BUILD_NOTE
MADE = "made.json"
COPY_TIMEOUT_S = 1800.0

# A build directory of our cells has 150 to 250 MB; a defconfig's may have ten times that.
MOST_KEPT = 12
MOST_BYTES = 8 << 30

# With more than this, copying costs more than it spares.
FARTHEST = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildRequest:
    """What is to be built.

    tree: the source with its patches, in the store. family: names the source without them; builds
    of the same are built upon first. series: the first two numbers of its version; builds of other
    families are built upon if they are of the same. state: names the tree; that of a working tree
    changes under its name. config: the final .config. toolchain: architecture, compiler and make's
    variables. files: digests of the files, by relative path, of a tree whose files are replaced now
    and then; None for one that never changes.
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
        """The digest that its build directory is kept under."""
        return digest_of([self.family, self.state, self.config, self.toolchain])


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildDirectory:
    """A build directory, ours until the context is left.

    tree: the source. objects: make's O=, with the .config in it.
    changed: files of the source, relative, that differ from those it was last built from; None if
    it never was. parent: the kept build that it is a copy of, empty for none.
    made: what the last build in it noted of what it made, empty unless it succeeded.
    """

    tree: Path
    objects: Path
    changed: tuple[str, ...] | None
    parent: str
    made: str = ""

    def note_made(self, text: str) -> None:
        """Note what was made, for the next build."""
        write_whole(self.tree.with_name(MADE), text.encode())


@contextlib.contextmanager
def kept_build(store: Store, request: BuildRequest, label: str) -> Iterator[BuildDirectory]:
    """Give the build directory for a kernel, and keep it afterwards.

    A BuildFailed keeps it too: make left only whole objects. After anything else it is removed.
    label: what is built, in words, for those who wait.
    """
    name = request.name
    with store.lock(f"{KIND}-{name}", label), store.disk_errors():
        directory = store.path(KIND, name)
        note = directory / NOTE
        parent = ""
        if not (note.is_file() and _is_as_left(directory)):
            if note.is_file():
                store.progress.say(f"{KIND}/{name[:16]} was changed by somebody else: not used")
            parent = _begin(store, request, directory)
        fresh = not (directory / "tree" / OBJECTS).is_dir()
        note.unlink(missing_ok=True)
        made = _taken(directory / MADE)
        try:
            changed = _follow(request, directory)
            objects = directory / "tree" / OBJECTS
            objects.mkdir(exist_ok=True)
            _put_config(objects / ".config", request.config)
            yield BuildDirectory(
                tree=directory / "tree",
                objects=objects,
                changed=None if fresh else changed,
                parent=parent,
                made=made,
            )
        except BuildFailed:
            _keep(request, directory)
            raise
        except BaseException:
            remove_tree(directory)
            raise
        _keep(request, directory)
    forget(store, most=MOST_KEPT, most_bytes=MOST_BYTES)


def _is_as_left(directory: Path) -> bool:
    """Whether the objects of a kept build have the sizes and times that its last build left.

    make would take those for its own that are younger than their sources, whatever is in them.
    """
    try:
        stamps = json.loads((directory / NOTE).read_bytes()).get("stamps")
        return stamps in (None, stamps_digest(directory / "tree" / OBJECTS, without=""))
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def _taken(path: Path) -> str:
    try:
        text = path.read_text()
    except OSError:
        return ""
    path.unlink()
    return text


def _keep(request: BuildRequest, directory: Path) -> None:
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


def _begin(store: Store, request: BuildRequest, directory: Path) -> str:
    """Make the directory as a copy of the nearest kept build, or empty; return whose copy it is."""
    remove_tree(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    with store.work(f"{KIND}-{request.name}") as work:
        work.entry.mkdir()
        parent = _copy_nearest(store, request, work.entry)
        if not parent:
            run(["cp", "-al", request.tree, work.entry / "tree"], timeout_s=COPY_TIMEOUT_S)
            if request.files is not None:
                _note_files(request, work.entry)
        work.entry.rename(directory)
    return parent


def _copy_nearest(store: Store, request: BuildRequest, entry: Path) -> str:
    config = parse_config(request.config)
    near = sorted(
        (noted["family"] != request.family, distance, directory)
        for directory, noted in _notes(store)
        if noted["toolchain"] == request.toolchain
        if noted["family"] == request.family or noted.get("series") == request.series
        if (distance := _distance(config, noted["config"])) <= FARTHEST
    )
    # Others copy them as well, which takes seconds; to begin with nothing takes minutes. Whoever
    # holds one that has its note waits for none.
    tries = [(waits, *each) for waits in (False, True) for each in near]
    for waits, foreign, distance, directory in tries:
        name = f"{KIND}-{directory.name}"
        with store.lock(name, "a kept build") if waits else store.lock_if_free(name) as ours:
            whole = ours is not False and (directory / NOTE).is_file()
            if whole and _is_as_left(directory):
                of = " of another source" if foreign else ""
                store.progress.say(
                    f"starting from a kept build{of} that differs in {distance} symbols"
                )
                copy_build(directory, entry)
                if foreign:
                    _adopt(request, entry)
                return directory.name
    return ""


def _adopt(request: BuildRequest, entry: Path) -> None:
    """Make the copy of another source's build one of ours.

    Files that differ get the present as their time, as the objects may be younger than our source.
    """
    known = entry / FILES
    if request.files is None:
        # They are compared and replaced by whoever builds (_follow).
        known.unlink(missing_ok=True)
        return
    tree = entry / "tree"
    before = json.loads(known.read_bytes()) if known.is_file() else digests_below(tree)
    follow_digests(request.tree, tree, request.files, before)
    _note_files(request, entry)


def copy_build(directory: Path, entry: Path) -> None:
    """Copy a kept build: objects by their bytes (or reflinks), the source by links."""
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
    """Give the kept builds that are whole, with their notes."""
    for path in (store.root / KIND).glob(f"*/{NOTE}"):
        with contextlib.suppress(OSError, ValueError):
            noted = json.loads(path.read_bytes())
            if isinstance(noted, dict) and {"family", "toolchain", "config"} <= noted.keys():
                yield path.parent, noted


def forget(store: Store, *, most: int, most_bytes: int) -> tuple[str, ...]:
    """Remove the kept builds that were not used for longest, down to a number and a size.

    The last one of each source and toolchain goes last: without it the next build of them would
    begin with nothing. Return the names of those removed; what somebody builds in stays.
    """
    aged = sorted(_notes(store), key=lambda each: _mtime(each[0] / NOTE), reverse=True)
    last: dict[tuple[str, str], Path] = {}
    for path, noted in aged:
        last.setdefault((noted["family"], noted["toolchain"]), path)
    spared = {*last.values()}
    # Sorting leaves those that rank alike in the order of their age.
    aged.sort(key=lambda each: each[0] not in spared)
    removed = []
    total = 0
    for place, (path, noted) in enumerate(aged):
        total += int(noted.get("size_bytes", 0))
        if place < most and total <= most_bytes:
            continue
        with store.lock_if_free(f"{KIND}-{path.name}") as ours:
            if ours:
                remove_tree(path)
                removed.append(path.name)
    return tuple(removed)


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


def _follow(request: BuildRequest, directory: Path) -> tuple[str, ...]:
    tree = directory / "tree"
    if request.files is None:
        return follow_linked(request.tree, tree)
    before = json.loads((directory / FILES).read_bytes())
    changed = link_digests(request.tree, tree, request.files, before)
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
