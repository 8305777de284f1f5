"""The store: entries are whole or absent, whoever makes them and however that ends."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pytest_kernelvm.errors import BadInput, BuildFailed, HarnessError
from pytest_kernelvm.process import Spawned, run, spawn
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.store.digest import Digest, digest_of, file_digest
from pytest_kernelvm.store.kinds import DEVEL, KERNELS, SOURCES, Kind
from pytest_kernelvm.store.metadata import ENTRY
from pytest_kernelvm.store.store import StagingDirectory, Store, default_store
from pytest_kernelvm.store.writing import remove_tree, write_whole
from tests.unit.test_process import wait_until

LABEL = "the kernel of malta-6.12"
D1, D2 = Digest("1" * 64), Digest("2" * 64)


@dataclass
class Maker:
    """Makes an entry of two files; counts how often."""

    content: str = "content"
    made: int = 0
    found_in_work: list[str] = field(default_factory=list)

    def __call__(self, work: StagingDirectory) -> dict[str, Any]:
        self.made += 1
        self.found_in_work = sorted(str(p.relative_to(work.directory)) for p in files(work))
        (work.directory / "scratch").write_text("not kept")
        (work.entry / "below").mkdir()
        (work.entry / "file").write_text(self.content)
        (work.entry / "below" / "image").write_bytes(bytes(1000))
        return {"release": "6.12.30", "made": self.made}


def files(work: StagingDirectory) -> Iterator[Path]:
    return (path for path in work.directory.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", Silent())


def obtain(
    store: Store, make: Callable[[StagingDirectory], dict[str, Any]], kind: Kind = KERNELS
) -> Path:
    return store.obtain(kind, D1, make, label=LABEL)


def leftovers(store: Store) -> list[str]:
    """Return what is in the store besides its locks and whole entries."""
    return sorted(
        str(path.relative_to(store.root))
        for path in (*store.root.glob("tmp/*"), *store.root.glob("kernels/*"))
        if not (path / ENTRY).is_file()
    )


def test_an_entry_is_made_once(store: Store) -> None:
    make = Maker()
    assert store.find(KERNELS, D1) is None
    entry = obtain(store, make)
    assert entry == store.root / "kernels" / D1 == store.path(KERNELS, D1)
    assert (entry / "file").read_text() == "content"
    assert not (entry / "scratch").exists()
    assert obtain(store, make) == store.find(KERNELS, D1) == entry
    assert make.made == 1
    assert store.describe(entry) == {"release": "6.12.30", "made": 1}
    assert store.find(KERNELS, D2) is None
    assert store.find(SOURCES, D1) is None
    assert leftovers(store) == []


def truncate(entry: Path) -> None:
    (entry / "below" / "image").write_bytes(bytes(999))


def lose_a_file(entry: Path) -> None:
    (entry / "file").unlink()


def lose_the_note(entry: Path) -> None:
    (entry / ENTRY).unlink()


def cut_the_note_off(entry: Path) -> None:
    (entry / ENTRY).write_text((entry / ENTRY).read_text()[:-10])


def write_nonsense_as_note(entry: Path) -> None:
    (entry / ENTRY).write_text("[]")


@pytest.mark.parametrize(
    "damage", [truncate, lose_a_file, lose_the_note, cut_the_note_off, write_nonsense_as_note]
)
def test_a_damaged_entry_is_made_anew(store: Store, damage: Callable[[Path], None]) -> None:
    make = Maker()
    entry = obtain(store, make)
    (entry / "from the first time").write_text("")
    damage(entry)
    assert store.find(KERNELS, D1) is None
    assert obtain(store, make) == store.find(KERNELS, D1) == entry
    assert make.made == 2
    assert (entry / "below" / "image").stat().st_size == 1000
    assert not (entry / "from the first time").exists()


def test_sizes_are_recorded_of_files_only(store: Store) -> None:
    def make(work: StagingDirectory) -> dict[str, Any]:
        (work.entry / "link").symlink_to("nowhere")
        return Maker()(work)

    entry = obtain(store, make)
    assert json.loads((entry / ENTRY).read_text())["sizes"] == {"file": 7, "below/image": 1000}
    assert obtain(store, Maker()) == entry


def test_an_entry_without_sizes_may_change(store: Store) -> None:
    """As a source tree, whose files are too many to be looked at in each run."""
    make = Maker()
    entry = obtain(store, make, DEVEL)
    truncate(entry)
    assert obtain(store, make, DEVEL) == entry
    assert make.made == 1


@pytest.mark.parametrize("error", [BuildFailed("make failed"), KeyboardInterrupt()])
def test_an_error_while_making_leaves_nothing(store: Store, error: BaseException) -> None:
    def fail(work: StagingDirectory) -> dict[str, Any]:
        Maker()(work)
        raise error

    with pytest.raises(type(error)) as raised:
        obtain(store, fail)
    assert raised.value is error
    assert store.find(KERNELS, D1) is None
    assert leftovers(store) == []
    assert obtain(store, Maker()) == store.find(KERNELS, D1)


def test_an_oserror_becomes_a_harness_error_with_advice(store: Store) -> None:
    def fail(work: StagingDirectory) -> dict[str, Any]:
        (work.entry / "absent").read_text()
        return {}

    with pytest.raises(HarnessError, match=r"the store failed: .*absent") as failed:
        obtain(store, fail)
    assert failed.value.evidence.where == (str(store.root),)
    assert "KERNELVM_STORE" in failed.value.evidence.next_step
    assert leftovers(store) == []


def test_what_an_interrupted_predecessor_left_is_removed(store: Store) -> None:
    half_made = store.root / "tmp" / f"kernels-{D1}" / "entry" / "tree" / "read-only"
    half_made.mkdir(parents=True)
    (half_made / "file").write_text("half")
    half_made.chmod(0o555)
    make = Maker()
    entry = obtain(store, make)
    assert make.found_in_work == []
    assert not (entry / "tree").exists()
    assert leftovers(store) == []


# Several processes

MAKING = """
import sys, time
from pathlib import Path
from pytest_kernelvm.store.digest import Digest
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.store.kinds import KERNELS
from pytest_kernelvm.progress import StreamProgress

root, go = map(Path, sys.argv[1:])

def make(work):
    (work.entry / "file").write_text("made by a child")
    print("making", flush=True)
    while not go.exists():
        time.sleep(0.01)
    return {}

store = Store(root, StreamProgress())
print(store.obtain(KERNELS, Digest("1" * 64), make, label="the kernel of malta-6.12"), flush=True)
"""


@dataclass
class Children:
    """Processes that want the same entry; its maker goes on when `go` is there."""

    directory: Path
    root: Path
    go: Path
    stack: contextlib.ExitStack

    def start(self, name: str) -> Spawned:
        argv = [sys.executable, "-c", MAKING, str(self.root), str(self.go)]
        return self.stack.enter_context(spawn(argv, output=self.directory / name))

    def said(self, name: str) -> list[str]:
        return (self.directory / name).read_text().splitlines()

    def wait_for(self, name: str, line: str) -> None:
        wait_until(lambda: line in self.said(name), f"{name} saying {line!r}")


@pytest.fixture
def children(store: Store, tmp_path: Path) -> Iterator[Children]:
    with contextlib.ExitStack() as stack:
        yield Children(tmp_path, store.root, tmp_path / "go", stack)


def waiting_for(maker: Spawned) -> str:
    return f"kernelvm: waiting for {LABEL}, being made by pid {maker.pid} on {socket.gethostname()}"


def test_two_processes_make_an_entry_once(store: Store, children: Children) -> None:
    first = children.start("first")
    children.wait_for("first", "making")
    second = children.start("second")
    children.wait_for("second", waiting_for(first))
    assert store.find(KERNELS, D1) is None
    children.go.touch()
    assert (first.wait(60), second.wait(60)) == (0, 0)
    entry = str(store.path(KERNELS, D1))
    assert children.said("first") == ["making", entry]
    assert children.said("second") == [waiting_for(first), entry]
    assert leftovers(store) == []


def test_a_waiting_process_goes_on_when_the_maker_is_killed(
    store: Store, children: Children
) -> None:
    first = children.start("first")
    children.wait_for("first", "making")
    second = children.start("second")
    children.wait_for("second", waiting_for(first))
    os.kill(first.pid, signal.SIGKILL)
    children.wait_for("second", "making")
    assert store.find(KERNELS, D1) is None
    children.go.touch()
    assert second.wait(60) == 0
    entry = store.path(KERNELS, D1)
    assert (entry / "file").read_text() == "made by a child"
    assert leftovers(store) == []


def test_after_a_killed_maker_another_one_makes_it(store: Store, children: Children) -> None:
    children.start("first")
    children.wait_for("first", "making")
    children.stack.close()
    assert leftovers(store) == [f"tmp/kernels-{D1}"]
    make = Maker()
    entry = obtain(store, make)
    assert (make.made, make.found_in_work) == (1, [])
    assert (entry / "file").read_text() == "content"
    assert leftovers(store) == []


# Disks


def test_a_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = Store(tmp_path / "file" / "store", Silent())
    assert store.find(KERNELS, D1) is None
    make = Maker()
    with pytest.raises(BadInput, match="the store is not writable") as failed:
        obtain(store, make)
    assert failed.value.evidence.where == (str(store.root),)
    assert "name another directory with KERNELVM_STORE" in failed.value.evidence.next_step
    assert make.made == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_store(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o555)
    with pytest.raises(BadInput, match="the store is not writable"):
        obtain(Store(tmp_path / "store", Silent()), Maker())


@contextlib.contextmanager
def mounted(directory: Path, size: str) -> Iterator[None]:
    argv = ["mount", "-t", "tmpfs", "-o", f"size={size}", "kernelvm-test", str(directory)]
    done = run(argv, timeout_s=60, check=False)
    if done.status != 0:
        pytest.skip(f"no tmpfs can be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        # A QEMU that was killed a moment ago may still be giving its memory back.
        umount: list[str | Path] = ["umount", directory]
        wait_until(lambda: run(umount, timeout_s=60, check=False).status == 0, "a free disk")


@contextlib.contextmanager
def disk_of(size: str, tmp_path: Path) -> Iterator[Path]:
    """Give a file system of its own; skips the test where none can be mounted."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount")
    directory = tmp_path / "disk"
    directory.mkdir()
    with mounted(directory, size):
        yield directory


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disk_of("256k", tmp_path) as directory:
        yield directory


def raises_full() -> AbstractContextManager[pytest.ExceptionInfo[HarnessError]]:
    return pytest.raises(HarnessError, match=r"the disk of the store is full: .*No space")


def test_a_disk_that_gets_full(small_disk: Path) -> None:
    store = Store(small_disk, Silent())

    def make(work: StagingDirectory) -> dict[str, Any]:
        about = Maker()(work)
        (work.entry / "large").write_bytes(bytes(1 << 20))
        return about

    with raises_full() as failed:
        obtain(store, make)
    assert "make room" in failed.value.evidence.next_step
    assert store.find(KERNELS, D1) is None
    assert leftovers(store) == []
    assert obtain(store, Maker()) == store.find(KERNELS, D1)


def test_a_disk_that_is_full_already(small_disk: Path) -> None:
    store = Store(small_disk / "store", Silent())
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with raises_full():
        obtain(store, Maker())
    assert leftovers(store) == []
    filler.unlink()
    assert obtain(store, Maker()) == store.find(KERNELS, D1)


# Names


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    one = digest_of({"source": "a", "symbols": {"A": "y", "B": "m"}, "patches": ["1", "2"]})
    other = digest_of({"patches": ["1", "2"], "symbols": {"B": "m", "A": "y"}, "source": "a"})
    assert one == other
    assert len(one) == 64
    assert int(one, 16)


@pytest.mark.parametrize(
    "other",
    [{"a": ["2", "1"]}, {"a": ["1"]}, {"b": ["1", "2"]}, {"a": ["1", 2]}, {}, {"a": "12"}],
)
def test_digests_differ_where_values_do(other: Any) -> None:
    assert digest_of(other) != digest_of({"a": ["1", "2"]})


def test_digests_are_the_same_in_all_versions() -> None:
    """Or every kernel is built again."""
    assert digest_of({"b": 1, "a": ["ü"]}) == (
        "301a67f8beb6e34fb1484fd9ff28b53c358414b8ab816d24eecf02b9f9fd90f8"
    )


def test_digest_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    assert file_digest(tmp_path / "file") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_the_default_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KERNELVM_STORE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_store() == tmp_path / ".cache" / "kernelvm"
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_store() == Path("/cache/kernelvm")
    monkeypatch.setenv("KERNELVM_STORE", "/store")
    assert default_store() == Path("/store")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "below" / "note.json"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    (tmp_path / "directory").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "directory", b"one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["below", "directory"]
    assert [each.name for each in path.parent.iterdir()] == ["note.json"]


def test_a_tree_is_removed_and_what_it_links_to_is_not(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir(mode=0o700)
    (tmp_path / "kept" / "file").write_text("")
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    (tree / "below" / "link").symlink_to(tmp_path / "kept")
    (tree / "below").chmod(0o500)
    remove_tree(tree)
    remove_tree(tree)
    assert not tree.exists()
    assert (tmp_path / "kept" / "file").is_file()
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o700
