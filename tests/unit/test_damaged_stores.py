"""Damage to a store: found where it matters, said rightly, and never a traceback."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_kernelvm.cli.main import main
from pytest_kernelvm.errors import Verdict
from pytest_kernelvm.store import kinds
from pytest_kernelvm.store.digest import (
    Digest,
    digest_of,
    filled_pieces,
    known_digest,
    sparse_digest,
)
from pytest_kernelvm.store.intact import DamagedStore, require_intact, require_intact_below
from pytest_kernelvm.store.kinds import DEVEL, KERNELS, Form, kind_of
from pytest_kernelvm.store.metadata import ENTRY, EntryMetadata
from pytest_kernelvm.store.store import StagingDirectory, Store
from tests.unit.test_source import RecordedProgress

KINDS = tuple(kind.name for kind in kinds.KINDS if kind.form is Form.ENTRY)
UNSIZED = tuple(kind.name for kind in kinds.KINDS if not kind.sized)
DIGEST = Digest("d" * 64)
FILES = {
    "Image": b"an image" * 1000,
    "config": b"CONFIG_A=y\n",
    "modules/lib/modules/6.12/a.ko": b"\x7fELF module" * 100,
    "headers/linux/a.h": b"#define A\n",
    "empty": b"",
}
ABOUT = {"release": "6.12.30", "arch": "aarch64", "image": "Image", "patches": []}


def make(work: StagingDirectory) -> dict[str, Any]:
    for name, content in FILES.items():
        (work.entry / name).parent.mkdir(parents=True, exist_ok=True)
        (work.entry / name).write_bytes(content)
    return dict(ABOUT)


def fill(root: Path, kind: str, digest: Digest = DIGEST) -> Path:
    """Make an entry as its maker does: many files are not sized, snapshots may change."""
    return Store(root, RecordedProgress()).obtain(kind_of(kind), digest, make, label="")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


def kernelvm(capsys: pytest.CaptureFixture[str], root: Path, *words: str) -> tuple[int, str]:
    status = main(["--store", str(root), *words])
    said = capsys.readouterr()
    return status, said.out + said.err


# The note

OLD_NOTE = json.dumps({"about": ABOUT, "sizes": {"Image": 8000}, "sha256": {}})
NOTES: dict[str, bytes] = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "a number": b"1",
    "a text": b'"about"',
    "nothing": b"{}",
    "no about": b'{"sizes":{}}',
    "no sizes": b'{"about": {}}',
    "no files": b'{"about": {}, "sizes": {"nosuch": 1}}',
    "about: a list": b'{"about": [], "sizes": {"Image": 8000}}',
    "about: null": b'{"about": null, "sizes": {"Image": 8000}}',
    "sizes: a list": b'{"about": {}, "sizes": ["Image"]}',
    "sizes: texts": b'{"about": {}, "sizes": {"Image": "8000"}}',
    "sizes: true": b'{"about": {}, "sizes": {"Image": true}}',
    "sizes: negative": b'{"about": {}, "sizes": {"Image": -1}}',
    "sizes: of outside": b'{"about": {}, "sizes": {"/etc/passwd": 1}}',
    "sizes: of above": b'{"about": {}, "sizes": {"../../x": 1}}',
    "sizes: of a zero byte": b'{"about": {}, "sizes": {"a\\u0000b": 1}}',
    "sizes: of half a character": b'{"about": {}, "sizes": {"\\ud800": 1}}',
    "sha256: a list": b'{"about": {}, "sizes": {"Image": 8000}, "sha256": []}',
    "sha256: no digest": b'{"about": {}, "sizes": {"Image": 8000}, "sha256": {"Image": "x"}}',
    "sha256: of another file": b'{"about": {}, "sizes": {"Image": 8000}, "sha256": {"b": "'
    + b"0" * 64
    + b'"}}',
    "sized: a text": b'{"about": {}, "sizes": {"Image": 8000}, "sized": "no"}',
    "tree: no digest": b'{"about": {}, "sizes": {}, "sized": false, "tree": 1}',
    "cut off": OLD_NOTE[:-5].encode(),
    "zero bytes": bytes(500),
    "binary": bytes(range(256)) * 4,
    "deep": b"[" * 100_000,
    "deep in about": b'{"about": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b', "sizes": {}}',
    "a name twice": b'{"about": {}, "about": {}, "sizes": {"Image": 8000}}',
    "NaN": b'{"about": {"a": NaN}, "sizes": {"Image": 8000}}',
}


def rewritten(text: bytes) -> Callable[[Path], None]:
    def rewrite(note: Path) -> None:
        note.write_bytes(text)

    return rewrite


def gone(note: Path) -> None:
    note.unlink()


def directory(note: Path) -> None:
    note.unlink()
    note.mkdir()


def fifo(note: Path) -> None:
    note.unlink()
    os.mkfifo(note)


def link(note: Path) -> None:
    note.rename(note.with_name("elsewhere"))
    note.symlink_to("elsewhere")


def endless_link(note: Path) -> None:
    note.unlink()
    note.symlink_to(note.name)


def flipped(note: Path) -> None:
    """A digit of the release, so that all is JSON as before."""
    content = note.read_bytes()
    note.write_bytes(content.replace(b"6.12.30", b"6.12.31"))
    assert note.read_bytes() != content


OTHERWISE: tuple[Callable[[Path], None], ...] = (gone, directory, fifo, link, endless_link, flipped)
DAMAGES: dict[str, Callable[[Path], None]] = {
    **{name: rewritten(text) for name, text in NOTES.items()},
    **{each.__name__: each for each in OTHERWISE},
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["kernels", "devel", "snapshots"])
def test_damaged_metadata(
    damage: str, kind: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = fill(root, kind)
    fill(root, "guests")
    DAMAGES[damage](entry / ENTRY)
    progress = RecordedProgress()
    store = Store(root, progress)
    assert store.find(kind_of(kind), DIGEST) is None
    (line,) = progress.lines
    assert line.startswith(f"{kind}/{DIGEST[:16]} in the store is damaged (")
    status, said = kernelvm(capsys, root, "store", "verify")
    assert status == Verdict.HARNESS_ERROR.exit_code
    assert f"{entry}: {ENTRY}: " in said or damage == "no files"
    assert "1 damaged" in said
    assert "all is whole" not in said
    status, said = kernelvm(capsys, root, "store", "ls")
    assert (status, said.count("\n")) == (0, 3)
    assert store.obtain(kind_of(kind), DIGEST, make, label="")
    assert store.damage(kind_of(kind), DIGEST) == ()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", ["a list", "no about", "gone", "directory", "binary"])
def test_damaged_metadata_of_every_kind(
    damage: str, kind: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = fill(root, kind)
    assert kernelvm(capsys, root, "store", "verify") == (0, "all is whole\n")
    DAMAGES[damage](entry / ENTRY)
    status, said = kernelvm(capsys, root, "store", "verify")
    assert status == Verdict.HARNESS_ERROR.exit_code
    assert "1 damaged" in said
    assert "Traceback" not in said
    assert kernelvm(capsys, root, "store", "gc", "--older-than", "30d")[0] == 0
    status, said = kernelvm(capsys, root, "store", "verify", "--remove")
    assert (status, entry.exists()) == (0, False)
    assert kernelvm(capsys, root, "store", "verify") == (0, "all is whole\n")


def test_gc_takes_damaged_entries_too(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = fill(root, "kernels")
    DAMAGES["a list"](entry / ENTRY)
    assert kernelvm(capsys, root, "store", "gc", "--max-size", "0K")[0] == 0
    assert not entry.exists()


# The files


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def changed_in_secret(path: Path) -> None:
    """As a disk would: neither size nor times tell."""
    status = path.stat()
    changed(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def removed(path: Path) -> None:
    path.unlink()


def linked(path: Path) -> None:
    path.rename(path.with_name("of old"))
    path.symlink_to("of old")


SOME_KINDS = (
    *("kernels", "devel"),
    *(
        pytest.param(kind, marks=pytest.mark.slow)
        for kind in KINDS
        if kind not in ("kernels", "devel")
    ),
)
HOW = (cut, changed, changed_in_secret, longer, removed, linked)


@pytest.mark.parametrize("kind", SOME_KINDS)
@pytest.mark.parametrize("name", [name for name in FILES if FILES[name]])
@pytest.mark.parametrize("how", HOW)
def test_a_damaged_file_of_each_kind(
    how: Callable[[Path], None],
    name: str,
    kind: str,
    root: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`verify` finds it; whoever uses the file finds it or has the entry made anew."""
    entry = fill(root, kind)
    (entry / name).chmod(0o644)
    how(entry / name)
    status, said = kernelvm(capsys, root, "store", "verify")
    assert status == Verdict.HARNESS_ERROR.exit_code
    assert name in said or kind in UNSIZED
    found = Store(root, RecordedProgress()).find(kind_of(kind), DIGEST)
    if found is None or (kind in UNSIZED and how is changed_in_secret) or kind == "snapshots":
        # Snapshots have a check of their own (tests/vm/test_restore.py).
        return
    with pytest.raises(DamagedStore) as raised:
        require_intact_below(entry)
    error = raised.value
    assert error.verdict is Verdict.HARNESS_ERROR
    assert f"{kind}/{DIGEST[:16]} in the store is damaged" in error.summary
    assert any(str(entry) in place for place in error.evidence.where)
    assert f"kernelvm --store {root} store verify --remove" in error.evidence.next_step
    if kind not in UNSIZED and how is not linked:
        assert name in error.summary
        assert error.evidence.expected.startswith("sha256 ")
        assert error.evidence.seen.startswith("sha256 ")


def test_an_additional_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = fill(root, "kernels")
    (entry / "modules/lib/modules/6.12/b.ko").write_bytes(b"\x7fELF")
    assert "b.ko: nobody put it there" in kernelvm(capsys, root, "store", "verify")[1]
    with pytest.raises(DamagedStore, match=r"b\.ko of kernels/"):
        require_intact((entry / "modules/lib/modules/6.12/b.ko",))


def test_a_name_that_is_no_digest(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(root, "kernels").rename(root / "kernels" / "mine")
    status, said = kernelvm(capsys, root, "store", "verify")
    assert status == Verdict.HARNESS_ERROR.exit_code
    assert f"{root}/kernels/mine: this is not the name of an entry" in said
    assert kernelvm(capsys, root, "store", "verify", "--remove")[0] == 0
    assert not (root / "kernels" / "mine").exists()


def test_require_intact_ignores_files_outside_of_a_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    require_intact((tmp_path / "file", tmp_path / "nosuch"))
    require_intact_below(tmp_path)


def test_a_file_is_read_again_when_it_changes(root: Path) -> None:
    image = fill(root, "kernels") / "Image"
    require_intact((image,))
    image.chmod(0o644)
    changed(image)
    with pytest.raises(DamagedStore):
        require_intact((image,))
    changed(image)
    require_intact((image,))
    # Another file in its place, with its size and its time.
    status = image.stat()
    other = image.with_name("other")
    other.write_bytes(bytes(status.st_size))
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(image)
    with pytest.raises(DamagedStore):
        require_intact((image,))


OPENED: list[str] = []
sys.addaudithook(lambda event, given: OPENED.append(str(given[0])) if event == "open" else None)


def test_a_file_is_not_read_twice(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(bytes(1 << 20))
    time.sleep(0.05)
    first = known_digest(large)
    OPENED.clear()
    assert known_digest(large) == first
    assert str(large) not in OPENED
    os.utime(large, (1, 1))
    assert known_digest(large) == first
    assert str(large) in OPENED


def test_a_damaged_initramfs_is_made_anew(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = digest_of("other content")
    (root / "initramfs").mkdir(parents=True)
    (root / "initramfs" / f"{digest}.cpio").write_bytes(b"content")
    status, said = kernelvm(capsys, root, "store", "verify")
    assert status == Verdict.HARNESS_ERROR.exit_code
    assert f"{digest}.cpio: other bytes than were put there" in said
    with pytest.raises(DamagedStore, match=r"\.cpio of initramfs in the store"):
        require_intact((root / "initramfs" / f"{digest}.cpio",))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kernel": "../../x"}', "[" * 100_000])
def test_a_damaged_request(text: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(root, "kernels")
    (root / "requests").mkdir()
    request = root / "requests" / f"{DIGEST}.json"
    request.write_text(text)
    status, said = kernelvm(capsys, root, "store", "verify")
    assert status == Verdict.HARNESS_ERROR.exit_code
    assert f"{request}: it names no kernel" in said
    assert kernelvm(capsys, root, "store", "verify", "--remove")[0] == 0
    assert not request.exists()
    assert (root / "kernels" / DIGEST).is_dir()


def test_metadata_of_earlier_versions_are_read(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = fill(root, "kernels")
    sizes = {name: len(content) for name, content in FILES.items()}
    (entry / ENTRY).write_text(json.dumps({"about": ABOUT, "sizes": sizes, "sha256": {}}))
    assert Store(root, RecordedProgress()).find(KERNELS, DIGEST) == entry
    devel = fill(root, "devel")
    (devel / ENTRY).write_text(json.dumps({"about": {}, "sizes": {}, "sha256": {}}))
    assert Store(root, RecordedProgress()).find(DEVEL, DIGEST) == devel
    assert kernelvm(capsys, root, "store", "verify") == (0, "all is whole\n")


def test_metadata_are_read_as_they_were_written() -> None:
    note = EntryMetadata(about={"a": "\x1b"}, sizes={"b": 1}, sha256={"b": DIGEST}, tree=DIGEST)
    assert json.loads(note.text())["sizes"] == {"b": 1}
    assert note.text().startswith(b'{\n "digest": "')


@pytest.mark.parametrize("size", [0, 1, 4096, 65536, 65537, 3 << 20])
def test_sparse_digest_ignores_holes(size: int, tmp_path: Path) -> None:
    content = bytearray(size)
    for place in (0, 5000, 70_000, 1 << 20, (1 << 20) + 66_000, size - 1):
        if 0 <= place < size:
            content[place] = 7
    full, holes = tmp_path / "full", tmp_path / "holes"
    full.write_bytes(content)
    with holes.open("wb", buffering=0) as file, full.open("rb", buffering=0) as source:
        for offset, page in filled_pieces(source, 4096):
            os.pwrite(file.fileno(), page, offset)
        file.truncate(size)
    assert holes.read_bytes() == content
    assert sparse_digest(full) == sparse_digest(holes)
    if size:
        content[size // 2] ^= 1
        full.write_bytes(content)
        assert sparse_digest(full) != sparse_digest(holes)
    with holes.open("ab") as file:
        file.truncate(size + 1)
    assert sparse_digest(full) != sparse_digest(holes)
