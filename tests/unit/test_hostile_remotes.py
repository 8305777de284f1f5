"""Remote stores that mean harm: whatever they say, nothing outside the store is touched by it.

Each attack is a directory that is changed, served as `file:` and over HTTP, or a server that
answers as no decent one does. The same holds for all: the kernel is not taken, one line says why,
and all files of the machine, entries of the store among them, are as they were.
"""

from __future__ import annotations

import contextlib
import gzip
import http.server
import io
import json
import os
import stat
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_kernelvm.foreign.archive_rules import ArchiveRules
from pytest_kernelvm.foreign.json_fields import Malformed
from pytest_kernelvm.store.digest import Digest, file_digest, tree_digests
from pytest_kernelvm.store.kinds import DEVEL, KERNELS
from pytest_kernelvm.store.remote import Remote, RemoteLimits
from pytest_kernelvm.store.remote_archives import RULES, unpack_entry
from pytest_kernelvm.store.store import StagingDirectory, Store
from tests.unit.serving import serving
from tests.unit.small_kernel import kernelvm_build, write_cell, write_small_kernel
from tests.unit.test_source import RecordedProgress

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")

DIGEST, REQUEST, OTHER = Digest("d" * 64), Digest("e" * 64), Digest("0" * 64)
ABOUT = {"release": "6.12.30", "arch": "mips", "image": "vmlinux", "patches": []}
IMAGE = b"\x7fELF" + bytes(1000)
LIMITS = RemoteLimits(note_s=2.0, archive_s=2.0, archive_bytes=4 << 20)
STARTING = ("subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.system")


class Started:
    """What this process started while `on`: an audit hook sees each attempt, and stays for good."""

    on = False
    seen: tuple[str, ...] = ()

    @classmethod
    def hook(cls, event: str, _arguments: tuple[object, ...]) -> None:
        if cls.on and event in STARTING:
            cls.seen = (*cls.seen, event)


sys.addaudithook(Started.hook)


class Scene:
    """A remote store in a directory, a store, and a directory that nobody may touch."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.remote = root / "remote"
        self.outside = root / "outside"
        self.outside.mkdir()
        (self.outside / "precious").write_text("mine")
        self.progress = RecordedProgress()
        self.store = Store(root / "store", self.progress)
        self.store.obtain(KERNELS, OTHER, make_kernel, label="")
        mine = Store(root / "mine", RecordedProgress())
        mine.obtain(DEVEL, DIGEST, make_kernel, label="")
        mine.obtain(KERNELS, DIGEST, make_kernel, label="")
        Remote(f"file://{self.remote}", writable=True).put(mine, REQUEST, DIGEST, "malta-6.12")
        self.note = self.remote / "requests" / f"{REQUEST}.json"

    def state(self) -> dict[str, Any]:
        """Return all that must stay as it is."""
        entries = sorted(
            path.name
            for kind in self.store.root.iterdir()
            if kind.name not in ("locks", "uses", "tmp")
            for path in kind.iterdir()
        )
        return {
            "entries": entries,
            "other": tree_digests(self.store.path(KERNELS, OTHER), without=""),
            "outside": tree_digests(self.outside, without=""),
            "root": sorted(path.name for path in self.root.iterdir()),
            "working directory": sorted(path.name for path in Path.cwd().iterdir()),
        }

    def say(self, **changes: Any) -> None:
        """Change fields of the note; None takes one out."""
        noted = {**json.loads(self.note.read_bytes()), **changes}
        said = {name: value for name, value in noted.items() if value is not None}
        self.note.write_text(json.dumps(said))

    def archive(self, kind: str = "kernels") -> Path:
        return self.remote / kind / f"{DIGEST}.tar.gz"

    def replace(self, content: bytes, kind: str = "kernels") -> None:
        """Replace an archive and note its digest, as whoever has the server can."""
        self.archive(kind).write_bytes(content)
        digests = json.loads(self.note.read_bytes())["sha256"]
        self.say(sha256={**digests, kind: file_digest(self.archive(kind))})

    def add(self, *members: tarfile.TarInfo, content: bytes = b"", kind: str = "kernels") -> None:
        """Put members behind those of an archive."""
        with tarfile.open(self.archive(kind)) as old:
            before = [(each, each.isreg() and old.extractfile(each)) for each in old]
            plain = io.BytesIO()
            with tarfile.open(fileobj=plain, mode="w:gz") as new:
                for each, file in before:
                    new.addfile(each, file or None)
                for each in members:
                    each.size = len(content) if each.isreg() else each.size
                    new.addfile(each, io.BytesIO(content) if each.isreg() else None)
        self.replace(plain.getvalue(), kind)

    def rewrite(self, name: str, content: bytes) -> None:
        """Replace a file in the kernel's archive."""
        with tarfile.open(self.archive()) as old:
            before = [(each, each.isreg() and old.extractfile(each)) for each in old]
            plain = io.BytesIO()
            with tarfile.open(fileobj=plain, mode="w:gz") as new:
                for each, file in before:
                    if each.name == name:
                        each.size = len(content)
                        new.addfile(each, io.BytesIO(content))
                    else:
                        new.addfile(each, file or None)
        self.replace(plain.getvalue())

    def about(self, about: object) -> None:
        """Have the kernel's note say something else; as earlier versions wrote it, unsigned."""
        noted = {"about": about, "sizes": {"vmlinux": len(IMAGE)}, "sha256": {}}
        self.rewrite("./entry.json", json.dumps(noted).encode())


def make_kernel(work: StagingDirectory) -> dict[str, Any]:
    (work.entry / "vmlinux").write_bytes(IMAGE)
    return dict(ABOUT)


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    root = tmp_path / "it"
    root.mkdir()
    found = Scene(root)
    monkeypatch.chdir(found.outside)
    return found


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.mode = kind, link, 0o644
    return found


def huge_header() -> bytes:
    """An archive whose first header, of a long name, says that it has 8 GiB."""
    header = member("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    header.size = 8 << 30
    return gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))


def endless_headers() -> bytes:
    """An archive of headers that say something about members of which none comes."""
    return gzip.compress(member("pax", tarfile.XGLTYPE).tobuf() * 10_000)


def sparse_file() -> bytes:
    """An archive of a file that is all hole, 1 TiB."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w:gz", format=tarfile.PAX_FORMAT) as new:
        hole = member("vmlinux")
        hole.pax_headers = {
            "GNU.sparse.major": "0",
            "GNU.sparse.minor": "1",
            "GNU.sparse.map": f"0,0,{1 << 40},0",
            "GNU.sparse.size": str(1 << 40),
        }
        new.addfile(hole)
    return plain.getvalue()


def deep(count: int = 100_000) -> str:
    return "[" * count + "]" * count


Attack = Callable[[Scene], None]

NOTES: dict[str, str | bytes] = {
    "empty": "",
    "null": "null",
    "a list": "[]",
    "a number": "17",
    "a text": '"text"',
    "true": "true",
    "no fields": "{}",
    "not UTF-8": b'{"kernel": "\xff\xfe"}',
    "UTF-16": '{"kernel": 1}'.encode("utf-16"),
    "zero bytes": bytes(1000),
    "cut off": '{"kernel": "' + DIGEST,
    "deep": deep(),
    "deep and short": deep(30_000),
    "deep in an object": '{"kernel": ' + deep() + "}",
    "too large": '{"kernel": "' + "d" * (1 << 20) + '"}',
    "a number of a million digits": '{"kernel": ' + "9" * 60_000 + "}",
    "NaN": '{"kernel": NaN}',
    "infinite": '{"kernel": 1e999}',
    "a name twice": f'{{"kernel": "{DIGEST}", "kernel": "/etc"}}',
    "a lone surrogate": '{"kernel": "\\ud800", "sha256": {}}',
}
KERNEL_DIGESTS: dict[str, object] = {
    "absolute": "OUTSIDE",
    "dots": "x/../../../outside",
    "dots alone": "..",
    "one dot": ".",
    "nothing": "",
    "a newline behind": f"{DIGEST}\n",
    "upper case": DIGEST.upper(),
    "too short": DIGEST[:-1],
    "too long": f"{DIGEST}0",
    "a slash in it": f"{DIGEST[:32]}/{DIGEST[:31]}",
    "a zero byte": f"{DIGEST[:63]}\0",
    "other digits": "٣" * 64,
    "a list": [DIGEST],
    "a number": int("1" * 64),
    "an object": {"digest": DIGEST},
}
DIGESTS: dict[str, object] = {
    "none": {},
    "a list": [],
    "null in it": {"devel": None, "kernels": None},
    "a path": {"devel": "../../outside", "kernels": "/etc"},
    "a number": {"devel": 1, "kernels": 2},
}
ABOUTS: dict[str, object] = {
    "a list": [],
    "null": None,
    "nothing": {},
    "release: dots": {**ABOUT, "release": "../../../../outside"},
    "release: absolute": {**ABOUT, "release": "/etc"},
    "release: a list": {**ABOUT, "release": ["6.12"]},
    "release: a newline": {**ABOUT, "release": "6.12\n"},
    "release: null": {**ABOUT, "release": None},
    "image: absolute": {**ABOUT, "image": "/etc/passwd"},
    "image: dots": {**ABOUT, "image": "../../../outside/precious"},
    "image: not there": {**ABOUT, "image": "Image"},
    "image: its note": {**ABOUT, "image": "entry.json"},
    "image: a number": {**ABOUT, "image": 3},
    "architecture: unknown": {**ABOUT, "arch": "pdp11"},
    "architecture: an object": {**ABOUT, "arch": {}},
    "patches: a text": {**ABOUT, "patches": "cookie"},
    "patches: numbers": {**ABOUT, "patches": [1]},
    "parts: no pairs": {**ABOUT, "release_parts": [["a"]]},
    "parts: a number": {**ABOUT, "release_parts": 7},
    "outputs: a list": {**ABOUT, "outputs": []},
    "outputs: a digest that is none": {**ABOUT, "outputs": {"headers": {"sha256": "../x"}}},
    "outputs: numbers": {**ABOUT, "outputs": {"headers": 1}},
    "console: a text": {**ABOUT, "shared_console": "yes"},
    "escape sequences": {**ABOUT, "source": "\x1b]0;title\x07\x1b[2J"},
    "escape sequences in a name": {**ABOUT, "\x1b[31m": "x"},
    "a long text": {**ABOUT, "source": "x" * 100_000},
}
MEMBERS: dict[str, tuple[tarfile.TarInfo, ...]] = {
    "absolute": (member("/tmp/kernelvm-absolute"),),
    "dots": (member("../../../outside/new"),),
    "dots inside": (member("a/../../../../outside/new"),),
    "a link to a directory and a file below it": (
        member("out", tarfile.SYMTYPE, "../../../outside"),
        member("out/new"),
    ),
    "an absolute link": (member("out", tarfile.SYMTYPE, "/etc"),),
    "a link up": (member("out", tarfile.SYMTYPE, "../x"),),
    "a link that goes down and up": (
        member("modules", tarfile.DIRTYPE),
        member("here", tarfile.SYMTYPE, "modules"),
        member("out", tarfile.SYMTYPE, "here/../x"),
    ),
    "a link with nothing": (member("out", tarfile.SYMTYPE, ""),),
    "a link inside and a file through it": (
        member("modules", tarfile.DIRTYPE),
        member("in", tarfile.SYMTYPE, "modules"),
        member("in/new"),
    ),
    "a link in place of the image": (member("vmlinux", tarfile.SYMTYPE, "entry.json"),),
    "a hard link out": (member("hard", tarfile.LNKTYPE, "../../../outside/precious"),),
    "a hard link in": (member("hard", tarfile.LNKTYPE, "vmlinux"),),
    "a FIFO": (member("fifo", tarfile.FIFOTYPE),),
    "a character device": (member("null", tarfile.CHRTYPE),),
    "a block device": (member("sda", tarfile.BLKTYPE),),
    "a contiguous file": (member("cont", tarfile.CONTTYPE),),
    "of an unknown type": (member("what", b"Z"),),
    "a file twice": (member("vmlinux"),),
    "a file and a directory": (member("vmlinux/below"),),
    "a newline in its name": (member("new\nline"),),
    "an escape in its name": (member("\x1b[2J"),),
    "a name that turns text around": (member("a\u202eb"),),
    "a link that turns text around": (member("out", tarfile.SYMTYPE, "a\u202eb"),),
    "far down": (member("d/" * 200 + "file"),),
    "a name too long": (member("n" * 300),),
    "more than is noted": (member("more"),),
}


def attacks() -> dict[str, Attack]:
    """Return all attacks that a directory can be, by what they are."""
    found: dict[str, Attack] = {}

    def add(name: str, attack: Attack) -> None:
        assert name not in found
        found[name] = attack

    for what, text in NOTES.items():
        data = text if isinstance(text, bytes) else text.encode()
        add(f"note: {what}", lambda scene, data=data: scene.note.write_bytes(data) and None)  # type: ignore[misc]
    for what, kernel in KERNEL_DIGESTS.items():

        def name_kernel(scene: Scene, kernel: object = kernel) -> None:
            scene.say(kernel=str(scene.outside) if kernel == "OUTSIDE" else kernel)

        add(f"kernel: {what}", name_kernel)
    for what, digests in DIGESTS.items():
        add(f"digests: {what}", lambda scene, digests=digests: scene.say(sha256=digests))  # type: ignore[misc]
    add("cell: an escape sequence", lambda scene: scene.say(cell="\x1b[31mred"))
    add("cell: a list", lambda scene: scene.say(cell=[]))
    add("cell: long", lambda scene: scene.say(cell="x" * 10_000))
    for what, about in ABOUTS.items():
        add(f"about: {what}", lambda scene, about=about: scene.about(about))  # type: ignore[misc]
    for what, members in MEMBERS.items():
        add(f"archive: {what}", lambda scene, members=members: scene.add(*members))  # type: ignore[misc]
    add("archive: no archive", lambda scene: scene.replace(b"nonsense"))
    add("archive: empty", lambda scene: scene.replace(b""))
    add("archive: an empty one", lambda scene: scene.replace(gzip.compress(bytes(1024))))
    add("archive: a bomb", lambda scene: scene.replace(gzip.compress(bytes(64 << 20))))
    add("archive: a huge header", lambda scene: scene.replace(huge_header()))
    add("archive: headers alone", lambda scene: scene.replace(endless_headers()))
    add("archive: a hole of 1 TiB", lambda scene: scene.replace(sparse_file()))
    add("archive: more than may be", lambda scene: scene.replace(os.urandom(5 << 20)))
    add("archive: cut off", lambda scene: scene.replace(scene.archive().read_bytes()[:-30]))
    add("archive: gone", lambda scene: scene.archive().unlink())
    add("archive: that of devel is bad", lambda scene: scene.replace(b"x", "devel"))
    add("archive: a link out of devel", lambda scene: scene.add(*LINK_OUT, kind="devel"))
    add("archive: no note", lambda scene: scene.rewrite("./entry.json", b""))
    add("archive: a deep note", lambda scene: scene.rewrite("./entry.json", deep().encode()))
    add("archive: a note of nothing", lambda scene: scene.rewrite("./entry.json", b"{}"))
    add("archive: no sizes", lambda scene: scene.rewrite("./entry.json", b'{"sizes":{}}'))
    add("archive: sizes of elsewhere", size_elsewhere)
    add("archive: other bytes than noted", lambda scene: scene.rewrite("./vmlinux", IMAGE[::-1]))
    return found


LINK_OUT = (member("out", tarfile.SYMTYPE, "../../outside"), member("out/new"))


def size_elsewhere(scene: Scene) -> None:
    noted = {"about": ABOUT, "sizes": {"../../../../outside/precious": 4}}
    scene.rewrite("./entry.json", json.dumps(noted).encode())


ATTACKS = attacks()


def test_there_are_enough_attacks() -> None:
    assert len(ATTACKS) >= 100


@contextlib.contextmanager
def watched(scene: Scene) -> Iterator[None]:
    """Hold that nothing changes but what a store has for work, and that no process is started."""
    before = scene.state()
    Started.seen, Started.on = (), True
    try:
        yield
    finally:
        Started.on = False
    assert Started.seen == ()
    assert scene.state() == before
    assert scene.store.damage(KERNELS, OTHER) == ()
    assert not list(scene.store.root.glob("tmp/*"))


def assert_refused(scene: Scene, url: str) -> None:
    with watched(scene):
        assert Remote(url, writable=False, limits=LIMITS).fetch(scene.store, REQUEST) is None
    (line,) = scene.progress.lines
    assert line.startswith(f"nothing is taken from the remote store {url}: ")
    assert line.isprintable()
    assert len(line) < 400
    assert not any(name in line for name in ("KeyError", "TypeError", "RecursionError"))


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("how", ["file", pytest.param("http", marks=pytest.mark.slow)])
def test_a_hostile_remote(name: str, how: str, scene: Scene) -> None:
    ATTACKS[name](scene)
    if how == "file":
        assert_refused(scene, f"file://{scene.remote}")
    else:
        with serving(scene.remote) as server:
            assert_refused(scene, server.url)


def test_the_same_without_an_attack_is_taken(scene: Scene) -> None:
    """Or all of the above would prove nothing."""
    remote = Remote(f"file://{scene.remote}", writable=False, limits=LIMITS)
    assert remote.fetch(scene.store, REQUEST) == DIGEST
    assert scene.store.damage(KERNELS, DIGEST) == scene.store.damage(DEVEL, DIGEST) == ()
    assert (scene.store.path(KERNELS, DIGEST) / "vmlinux").read_bytes() == IMAGE


@pytest.mark.parametrize(
    "harmless",
    [
        lambda scene: scene.add(),
        lambda scene: scene.add(member("in", tarfile.SYMTYPE, "vmlinux")),
        lambda scene: scene.about(ABOUT),
        lambda scene: scene.say(more=1),
        lambda scene: scene.say(cell=None),
    ],
)
def test_unusual_but_harmless_answers_are_taken(harmless: Attack, scene: Scene) -> None:
    """The ways in which the attacks are made are no fault by themselves."""
    harmless(scene)
    test_the_same_without_an_attack_is_taken(scene)


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        (replace(RULES, most_bytes=1000), "more than 0 MiB"),
        (replace(RULES, most_members=2), "more than 2 files"),
    ],
)
def test_an_archive_beyond_the_limits(rules: ArchiveRules, why: str, scene: Scene) -> None:
    with pytest.raises(Malformed, match=why):
        unpack_entry(scene.archive(), scene.outside, rules)


@pytest.mark.parametrize("what", ["note", "archive"])
@pytest.mark.parametrize("kind", ["FIFO", "directory", "link to a FIFO", "link to /dev/zero"])
def test_files_that_have_no_end_or_keep_waiting(what: str, kind: str, scene: Scene) -> None:
    path = scene.note if what == "note" else scene.archive()
    path.unlink()
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "link to a FIFO":
        os.mkfifo(path.with_name("fifo"))
        path.symlink_to(path.with_name("fifo"))
    else:
        path.symlink_to("/dev/zero")
    started = time.monotonic()
    assert_refused(scene, f"file://{scene.remote}")
    assert time.monotonic() - started < 10


def test_what_is_taken_gains_no_rights(scene: Scene) -> None:
    """Nor does a file become another user's, or one that all may write."""
    special = member("vmlinux")
    special.mode, special.uid = 0o6777, 12345
    note = json.dumps({"about": ABOUT, "sizes": {"vmlinux": 4}}).encode()
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w:gz") as new:
        for each, content in ((special, b"\x7fELF"), (member("entry.json"), note)):
            each.size = len(content)
            new.addfile(each, io.BytesIO(content))
    scene.replace(plain.getvalue())
    remote = Remote(f"file://{scene.remote}", writable=False, limits=LIMITS)
    assert remote.fetch(scene.store, REQUEST) == DIGEST
    status = (scene.store.path(KERNELS, DIGEST) / "vmlinux").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o555, os.geteuid())


# Servers

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


def endless(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b" " * 65536)


def dripping(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        for _second in range(200):
            handler.wfile.write(b" ")
            time.sleep(0.1)


def dripping_headers(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    dripping_bytes = b"x"
    with contextlib.suppress(OSError):
        for _second in range(200):
            handler.wfile.write(dripping_bytes)
            time.sleep(0.1)


def silent(_handler: http.server.BaseHTTPRequestHandler) -> None:
    time.sleep(20)


def gzip_bomb(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.end_headers()
    with contextlib.suppress(OSError):
        handler.wfile.write(gzip.compress(bytes(256 << 20)))


def lying_about_its_length(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(1 << 60))
    handler.end_headers()
    handler.wfile.write(b"{}")


def redirecting_to_a_file(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("Location", "file:///etc/passwd")
    handler.end_headers()


def redirecting_for_ever(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.send_response(302)
    handler.send_header("Location", handler.path + "x")
    handler.end_headers()


def escape_sequences(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 \x1b[2J\x1b]0;title\x07\r\n\x1b[31m: x\r\n\r\n")


def nonsense(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.wfile.write(bytes(1000))


ANSWERS: tuple[Answer, ...] = (
    endless,
    dripping,
    dripping_headers,
    silent,
    gzip_bomb,
    lying_about_its_length,
    redirecting_to_a_file,
    redirecting_for_ever,
    escape_sequences,
    nonsense,
)


@contextlib.contextmanager
def answering(answer: Answer, directory: Path, *, notes: bool) -> Iterator[str]:
    """Serve a directory but for its archives, or its notes, which are answered in a way."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(directory))

        def do_GET(self) -> None:
            self.close_connection = True
            if notes or "/requests/" not in self.path:
                answer(self)
            else:
                super().do_GET()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """The client may close the connection."""

    with Server(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads, server.block_on_close = True, False
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("notes", [True, False], ids=["note", "archive"])
def test_a_server_that_breaks_http(answer: Answer, notes: bool, scene: Scene) -> None:
    started = time.monotonic()
    with answering(answer, scene.remote, notes=notes) as url:
        assert_refused(scene, url)
    assert time.monotonic() - started < 10


def test_a_secret_in_the_url_is_not_shown(scene: Scene) -> None:
    remote = Remote("http://me:secret@127.0.0.1:9/store", writable=False)
    assert remote.fetch(scene.store, REQUEST) is None
    assert "secret" not in "".join(scene.progress.lines)
    assert "http://127.0.0.1:9/store" in scene.progress.lines[0]


def test_a_kernel_is_built_all_the_same(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command, with a server that names a directory for each request."""

    def naming_a_directory(handler: http.server.BaseHTTPRequestHandler) -> None:
        said = {"kernel": str(scene.outside), "sha256": dict.fromkeys(("devel", "kernels"), DIGEST)}
        data = json.dumps(said).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    write_cell(tmp_path, f"tree: {write_small_kernel(tmp_path / 'tree')}")
    before = scene.state()
    with answering(naming_a_directory, scene.remote, notes=True) as url:
        monkeypatch.setenv("KERNELVM_REMOTE", url)
        done = kernelvm_build(tmp_path, scene.root / "fresh")
    assert done.status == 0, done.stderr
    assert f"nothing is taken from the remote store {url}: requests/" in done.stderr
    assert f"'{scene.outside}' is no digest"[:60] in done.stderr
    assert "Traceback" not in done.stderr
    assert "kernels/" in done.stdout
    after = scene.state()
    assert after == {**before, "root": sorted([*before["root"], "fresh"])}
