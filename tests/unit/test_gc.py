"""What goes from a store and what stays; files that cannot be changed by mistake."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_kernelvm.process import Spawned, spawn
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.store.digest import Digest, digest_of
from pytest_kernelvm.store.gc import clean, clean_kernel, collect_garbage, evict
from pytest_kernelvm.store.inventory import items
from pytest_kernelvm.store.kinds import (
    DOWNLOADS,
    FAILURES,
    INITRAMFS,
    KERNELS,
    LOGS,
    PACKAGE_LISTS,
    SNAPSHOTS,
    TEMPORARY,
    USES,
    Kind,
    Limits,
    kind_of,
)
from pytest_kernelvm.store.metadata import ENTRY
from pytest_kernelvm.store.store import StagingDirectory, Store
from pytest_kernelvm.store.verify import verify
from pytest_kernelvm.store.writing import remove_tree
from tests.unit.test_process import wait_until

SIZE = 64 << 10
DAY_S = 86400.0
NAMES: dict[str, str] = {}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def named(name: str) -> Digest:
    """Return a digest that stands for a name."""
    NAMES[digest_of(name)] = name
    return digest_of(name)


def names(digests: Iterable[str]) -> list[str]:
    return [NAMES.get(digest, digest) for digest in digests]


def fill(root: Path, *digests: str, kind: Kind = KERNELS) -> None:
    """Make entries, used ever longer ago: the first now, the second a day ago, and so on."""
    store = Store(root, Silent())

    def make(work: StagingDirectory) -> dict[str, Any]:
        (work.entry / "below").mkdir()
        (work.entry / "below" / "image").write_bytes(os.urandom(SIZE))
        return {"release": "6.12.30", "first_cell": "malta-6.12"}

    for days, digest in enumerate(map(named, digests)):
        store.obtain(kind, digest, make, label=digest)
        when = time.time() - days * DAY_S
        os.utime(root / USES.name / f"{kind}-{digest}", (when, when))


def kernels(root: Path) -> list[str]:
    return sorted(names(path.name for path in (root / "kernels").iterdir()))


def other(root: Path) -> Store:
    """Return the store as another process would see it, which has found nothing yet."""
    return Store(root, Silent())


USING = """
import sys, time
from pathlib import Path
from pytest_kernelvm.store.digest import Digest
from pytest_kernelvm.store.kinds import KERNELS
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.progress import Silent

print(Store(Path(sys.argv[1]), Silent()).find(KERNELS, Digest(sys.argv[2])), flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def user_of(root: Path, digest: str, log: Path) -> Iterator[Spawned]:
    """Give another process that has found an entry and lives."""
    with spawn([sys.executable, "-c", USING, str(root), named(digest)], output=log) as child:
        wait_until(lambda: named(digest) in log.read_text(), "the entry to be found")
        yield child


def test_items_of_a_store(root: Path) -> None:
    fill(root, "new", "old")
    found = items(other(root))
    assert [(item.kind.name, item.digest) for item in found] == [
        ("kernels", named("new")),
        ("kernels", named("old")),
    ]
    assert found[0].about == "malta-6.12 6.12.30"
    assert found[0].size_bytes >= SIZE
    assert 0.9 < (found[0].used_s - found[1].used_s) / DAY_S < 1.1


def test_gc_by_age(root: Path) -> None:
    fill(root, "today", "yesterday", "before")
    gone = collect_garbage(other(root), older_than_s=1.5 * DAY_S)
    assert names(item.digest for item in gone) == ["before"]
    assert kernels(root) == ["today", "yesterday"]
    assert not list((root / "tmp").iterdir())


def test_gc_by_size(root: Path) -> None:
    fill(root, "today", "yesterday", "before")
    most = sum(item.size_bytes for item in items(other(root))) - 1
    gone = collect_garbage(other(root), most_bytes=most)
    assert names(item.digest for item in gone) == ["before"]
    gone = collect_garbage(other(root), most_bytes=0)
    assert names(item.digest for item in gone) == ["today", "yesterday"]
    assert kernels(root) == []


def test_evict_down_to_limits(root: Path) -> None:
    fill(root, *"abcde")
    gone = evict(other(root), KERNELS, limits=Limits(most=4), room=1)
    assert names(item.digest for item in gone) == ["d", "e"]
    gone = evict(other(root), KERNELS, limits=Limits(most_age_s=1.5 * DAY_S))
    assert names(item.digest for item in gone) == ["c"]
    assert evict(other(root), KERNELS) == ()
    assert kernels(root) == ["a", "b"]


def test_evict_spares_some_and_takes_others_last(root: Path) -> None:
    fill(root, *"abcde")
    limits = Limits(most=3)
    gone = evict(other(root), KERNELS, limits=limits, spared=[named("e")], last=[named("d")])
    assert names(item.digest for item in gone) == ["b", "c"]
    gone = evict(other(root), KERNELS, limits=Limits(most=0), spared=[named("e")])
    assert names(item.digest for item in gone) == ["a", "d"]


def test_evict_leaves_what_another_process_uses(root: Path, tmp_path: Path) -> None:
    fill(root, "newest", "new", "used")
    with user_of(root, "used", tmp_path / "log"):
        gone = evict(other(root), KERNELS, limits=Limits(most=2))
        assert names(item.digest for item in gone) == ["new"]
    assert kernels(root) == ["newest", "used"]


def test_a_bundle_that_is_replayed_is_not_evicted(root: Path) -> None:
    for name, days in (("malta-6.12-aa", 20), ("malta-6.12-bb", 30), ("malta-6.12-cc", 1)):
        directory = root / "failures" / name
        directory.mkdir(parents=True)
        os.utime(directory, (time.time() - days * DAY_S,) * 2)
    used = root / USES.name / "failures-malta-6.12-aa"
    used.mkdir(parents=True)
    (used / "elsewhere-1-2").touch()
    gone = evict(other(root), FAILURES)
    assert [item.digest for item in gone] == ["malta-6.12-bb"]


def test_find_makes_an_entry_recently_used(root: Path) -> None:
    fill(root, "today", "yesterday", "before")
    other(root).find(KERNELS, named("before"))
    gone = collect_garbage(other(root), older_than_s=0.5 * DAY_S)
    assert names(item.digest for item in gone) == ["yesterday"]


def test_gc_leaves_what_another_process_uses(root: Path, tmp_path: Path) -> None:
    fill(root, "used", "unused")
    with user_of(root, "used", tmp_path / "log"):
        gone = collect_garbage(other(root), most_bytes=0)
        assert names(item.digest for item in gone) == ["unused"]
        assert other(root).find(KERNELS, named("used"))
    collect_garbage(other(root), most_bytes=0)
    assert kernels(root) == []


def test_gc_leaves_what_is_being_made(root: Path) -> None:
    fill(root, "made")
    with other(root).lock(f"kernels-{named('made')}", "the kernel"):
        assert collect_garbage(other(root), most_bytes=0) == ()
    assert kernels(root) == ["made"]


def test_uses_of_dead_processes_do_not_count(root: Path, tmp_path: Path) -> None:
    fill(root, "used")
    with user_of(root, "used", tmp_path / "log"):
        pass
    users = root / USES.name / f"kernels-{named('used')}"
    (users / "elsewhere-1-2").touch()
    assert other(root).find(KERNELS, named("used"))
    names = [user.name for user in users.iterdir()]
    assert len(names) == 2
    assert "elsewhere-1-2" in names
    assert not other(root).remove(KERNELS, named("used"))
    os.utime(users / "elsewhere-1-2", (1, 1))
    assert other(root).remove(KERNELS, named("used"))


def test_what_gc_removed_is_made_again(root: Path) -> None:
    fill(root, "one")
    collect_garbage(other(root), most_bytes=0)
    assert other(root).find(KERNELS, named("one")) is None
    fill(root, "one")
    assert other(root).find(KERNELS, named("one"))


def test_gc_removes_requests_without_a_kernel(root: Path) -> None:
    fill(root, "here")
    requests = root / "requests"
    requests.mkdir()
    for name in ("here", "gone"):
        (requests / f"{name}.json").write_text(json.dumps({"kernel": named(name)}))
    (requests / "broken.json").write_text("{")
    collect_garbage(other(root), older_than_s=9 * DAY_S)
    assert [path.name for path in requests.iterdir()] == ["here.json"]


def test_gc_removes_old_build_directories_and_tree_copies(root: Path) -> None:
    for kind, note in (("builds", "note.json"), ("mirrors", "files.json")):
        for name, days in (("new", 0), ("old", 3)):
            directory = root / kind / named(name)
            (directory / "tree").mkdir(parents=True)
            (directory / note).write_text("{}")
            when = time.time() - days * DAY_S
            os.utime(directory / note, (when, when))
    with other(root).lock(f"builds-{named('old')}", "the kernel"):
        gone = collect_garbage(other(root), older_than_s=DAY_S)
    assert [(item.kind.name, item.digest) for item in gone] == [("mirrors", named("old"))]
    gone = collect_garbage(other(root), older_than_s=DAY_S)
    assert [(item.kind.name, item.digest) for item in gone] == [("builds", named("old"))]


# Damage


def test_files_of_an_entry_are_read_only(root: Path) -> None:
    fill(root, "one")
    image = root / "kernels" / named("one") / "below/image"
    assert image.stat().st_mode & 0o222 == 0
    assert json.loads((root / "kernels" / named("one") / ENTRY).read_text())["sha256"].keys() == {
        "below/image"
    }


def test_verify_finds_what_sizes_do_not_show(root: Path) -> None:
    fill(root, "good", "bad", "short", "lost", "noteless")
    for name in ("bad", "short", "lost"):
        image = root / "kernels" / named(name) / "below/image"
        image.chmod(0o644)
        content = image.read_bytes()
        if name == "lost":
            image.unlink()
        else:
            image.write_bytes(
                bytes([content[0] ^ 1]) + content[1 : -1 if name == "short" else None]
            )
    (root / "kernels" / named("noteless") / ENTRY).write_text("{}")
    assert other(root).find(KERNELS, named("bad"))
    faults = {NAMES[item.digest]: fault for item, fault in verify(other(root)).items()}
    assert faults == {
        "bad": ("below/image: other bytes than were put there",),
        "short": (f"below/image: {SIZE - 1} bytes instead of {SIZE}",),
        "lost": ("below/image: No such file or directory",),
        "noteless": (f"{ENTRY}: sizes is not there",),
    }


def test_remove_of_what_another_process_removed(root: Path) -> None:
    fill(root, "a")
    store = other(root)
    assert store.remove(KERNELS, named("a"))
    assert store.remove(KERNELS, named("a"))
    assert kernels(root) == []


# Cleaning


def test_clean_leaves_what_another_process_uses(root: Path, tmp_path: Path) -> None:
    fill(root, "used", "unused")
    fill(root, "snapshot", kind=SNAPSHOTS)
    (root / "logs" / "old").mkdir(parents=True)
    with user_of(root, "used", tmp_path / "log"):
        told = dict(clean(other(root), (KERNELS, SNAPSHOTS, LOGS, TEMPORARY)))
        assert told[root / "kernels"] == 1
        assert kernels(root) == ["used"]
        assert other(root).find(KERNELS, named("used"))
        assert not (root / "snapshots").exists()
        assert not (root / "logs").exists()
    assert dict(clean(other(root), (KERNELS,))) == {root / "kernels": 0}
    assert not (root / "kernels").exists()
    assert not (root / USES.name).exists()


def test_clean_leaves_archives_and_logs_that_are_used(root: Path, tmp_path: Path) -> None:
    with spawn([sys.executable, "-c", PACKING, str(root)], output=tmp_path / "log") as child:
        wait_until(lambda: "packed" in (tmp_path / "log").read_text(), "the archive")
        told = dict(clean(other(root), (INITRAMFS, LOGS, TEMPORARY)))
        assert told == {root / "initramfs": 1, root / "logs": 1, root / "tmp": 1}
        assert [path.suffix for path in (root / "initramfs").iterdir()] == [".cpio"]
        assert child.poll() is None
    assert set(dict(clean(other(root), (INITRAMFS, LOGS, TEMPORARY))).values()) == {0}


PACKING = """
import sys, time
from pathlib import Path
from pytest_kernelvm.guest.cpio import file
from pytest_kernelvm.guest.initramfs import pack
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.progress import Silent

store = Store(Path(sys.argv[1]), Silent())
pack(store, [file("init", b"x", 0o755)], compressed=False)
store.new_log_directory("malta-6.12")
with store.work("snapshots-x"):
    print("packed", flush=True)
    time.sleep(600)
"""


def test_clean_leaves_a_download_that_goes_on(root: Path) -> None:
    part = root / "downloads" / f"{named('file')}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"half of it")
    with other(root).lock(f"downloads-{named('file')}", "the download"):
        assert dict(clean(other(root), (DOWNLOADS,))) == {root / "downloads": 1}
    assert part.is_file()
    assert dict(clean(other(root), (DOWNLOADS,))) == {root / "downloads": 0}
    assert not part.parent.exists()


def test_clean_leaves_package_lists_that_are_fetched(root: Path) -> None:
    lists = root / "apt" / "bookworm-arm64-deb"
    lists.mkdir(parents=True)
    with other(root).lock(f"apt-{lists.name}", "the package lists"):
        assert dict(clean(other(root), (PACKAGE_LISTS,))) == {root / "apt": 1}
    assert dict(clean(other(root), (PACKAGE_LISTS,))) == {root / "apt": 0}
    assert not lists.parent.exists()


def test_clean_leaves_what_is_being_made(root: Path) -> None:
    fill(root, "made")
    with other(root).lock(f"kernels-{named('made')}", "the kernel"):
        assert dict(clean(other(root), (KERNELS,))) == {root / "kernels": 1}


def test_clean_kernel_removes_its_devel_trees_and_snapshots(root: Path) -> None:
    fill(root, "mine", "other")
    fill(root, "mine", kind=kind_of("devel"))
    store = Store(root, Silent())

    def make(kernel: str) -> Callable[[StagingDirectory], dict[str, Any]]:
        def fill_it(work: StagingDirectory) -> dict[str, Any]:
            (work.entry / "file").write_text(kernel)
            return {"kernel": named(kernel)}

        return fill_it

    for kernel in ("mine", "other"):
        for kind in ("trees", "snapshots"):
            store.obtain(kind_of(kind), digest_of([kind, kernel]), make(kernel), label="")
        (root / "requests").mkdir(exist_ok=True)
        (root / "requests" / f"{kernel}.json").write_text(json.dumps({"kernel": named(kernel)}))
    gone, stay = clean_kernel(store, named("mine"))
    assert sorted(item.kind.name for item in gone) == ["devel", "kernels", "snapshots", "trees"]
    assert stay == ()
    left = {(item.kind.name, item.digest) for item in items(store)}
    assert left == {
        ("kernels", named("other")),
        ("snapshots", digest_of(["snapshots", "other"])),
        ("trees", digest_of(["trees", "other"])),
    }
    assert [path.name for path in (root / "requests").iterdir()] == ["other.json"]


# What is left behind

WRITING = """
import sys, time
from pathlib import Path
from pytest_kernelvm.store.digest import Digest
from pytest_kernelvm.store.kinds import SNAPSHOTS
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.progress import Silent

def make(work):
    (work.directory / "memory").write_bytes(bytes(1000))
    (work.entry / "state").write_bytes(bytes(1000))
    print("writing", flush=True)
    time.sleep(600)

Store(Path(sys.argv[1]), Silent()).obtain(SNAPSHOTS, Digest("5" * 64), make, label="it")
"""


@pytest.mark.parametrize("how", ["work", "log directory", "gc", "clean"])
def test_tmp_of_a_killed_process_is_removed_at_the_next_start(
    how: str, root: Path, tmp_path: Path
) -> None:
    with (
        spawn([sys.executable, "-c", WRITING, str(root)], output=tmp_path / "log") as child,
        other(root).work("mine"),
    ):
        wait_until(lambda: "writing" in (tmp_path / "log").read_text(), "the writer")
        left = root / "tmp" / f"snapshots-{'5' * 64}"
        bundle = root / "tmp" / "failure-abc"
        bundle.mkdir()
        start(how, root)
        assert left.is_dir()
        os.kill(child.pid, signal.SIGKILL)
        child.wait(10)
        start(how, root)
        assert not left.exists()
        assert (root / "tmp" / "mine").is_dir()
        # Nobody locks those; they go when they are old.
        assert bundle.is_dir()
        os.utime(bundle, (1, 1))
        start(how, root)
        assert not bundle.exists()


def start(how: str, root: Path) -> None:
    """Do with a store what a process does at its start."""
    if how == "work":
        with other(root).work("another"):
            pass
    elif how == "log directory":
        other(root).new_log_directory("malta")
    elif how == "gc":
        collect_garbage(other(root), older_than_s=DAY_S)
    else:
        assert dict(clean(other(root), (TEMPORARY,)))


def test_gc_removes_uses_of_what_is_gone(root: Path) -> None:
    fill(root, "here", "gone")
    remove_tree(root / "kernels" / named("gone"))
    (root / USES.name / "nonsense").mkdir()
    note = root / USES.name / f"kernels-{named('gone')}" / "nonsense"
    note.touch()
    os.utime(note, (1, 1))
    collect_garbage(other(root), older_than_s=9 * DAY_S)
    assert f"kernels-{named('gone')}" not in [path.name for path in (root / USES.name).iterdir()]
