"""Remote stores: a directory, a web server, an S3 server, and each of them misbehaving."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.process import spawn
from pytest_kernelvm.store.digest import Digest
from pytest_kernelvm.store.kinds import DEVEL, KERNELS, kind_of
from pytest_kernelvm.store.remote import Remote, remote_of_environment
from pytest_kernelvm.store.store import StagingDirectory, Store
from tests.unit.serving import Served, serving
from tests.unit.test_process import wait_until
from tests.unit.test_source import RecordedProgress

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")

DIGEST, REQUEST = Digest("d" * 64), Digest("e" * 64)
FILES = {"vmlinux": b"\x7fELF" + bytes(100_000), "modules/lib/a.ko": b"module"}


@dataclass
class Place:
    """A store in a directory, and the progress that it showed."""

    store: Store
    progress: RecordedProgress

    def files(self, kind: str) -> dict[str, bytes]:
        entry = self.store.find(kind_of(kind), DIGEST)
        if entry is None:
            return {}
        return {
            str(path.relative_to(entry)): path.read_bytes()
            for path in entry.rglob("*")
            if path.is_file() and path.name != "entry.json"
        }


def place(root: Path) -> Place:
    progress = RecordedProgress()
    return Place(Store(root, progress), progress)


@pytest.fixture
def built(tmp_path: Path) -> Place:
    """A store with a kernel."""

    def make(work: StagingDirectory) -> dict[str, Any]:
        for name, content in FILES.items():
            (work.entry / name).parent.mkdir(parents=True, exist_ok=True)
            (work.entry / name).write_bytes(content)
        return {"release": "6.12.30", "arch": "mips", "image": "vmlinux", "patches": []}

    here = place(tmp_path / "built")
    here.store.obtain(DEVEL, DIGEST, make, label="")
    here.store.obtain(KERNELS, DIGEST, make, label="")
    return here


@pytest.fixture
def empty(tmp_path: Path) -> Place:
    return place(tmp_path / "empty")


@pytest.fixture
def directory(tmp_path: Path, built: Place) -> Path:
    """A remote store in a directory, with the kernel."""
    path = tmp_path / "remote"
    Remote(f"file://{path}", writable=True).put(built.store, REQUEST, DIGEST, "malta-6.12")
    assert built.progress.lines == [f"put malta-6.12 into file://{path}"]
    return path


@pytest.fixture
def served(directory: Path) -> Iterator[Served]:
    with serving(directory) as server:
        yield server


def assert_taken(here: Place, remote: Remote) -> None:
    assert remote.fetch(here.store, REQUEST) == DIGEST
    assert here.files("kernels") == here.files("devel") == FILES
    entry = here.store.path(KERNELS, DIGEST)
    assert here.store.describe(entry) == {
        **{"release": "6.12.30", "arch": "mips", "image": "vmlinux", "patches": []},
        "remote": remote.url,
    }
    assert here.store.damage(KERNELS, DIGEST) == ()


def assert_not_taken(here: Place, remote: Remote, why: str) -> None:
    assert remote.fetch(here.store, REQUEST) is None
    assert here.files("kernels") == {}
    assert why in here.progress.lines[-1]
    assert not list(here.store.root.glob("tmp/*"))


def test_fetch_from_a_directory(directory: Path, empty: Place) -> None:
    assert_taken(empty, Remote(f"file://{directory}", writable=False))
    assert not list(directory.rglob("*.tmp"))


def test_fetch_from_a_web_server(served: Served, empty: Place) -> None:
    assert_taken(empty, Remote(served.url, writable=False))


def test_an_unknown_request(served: Served, empty: Place) -> None:
    assert Remote(served.url, writable=False).fetch(empty.store, Digest("0" * 64)) is None
    assert empty.progress.lines == []


def test_a_read_only_one_is_not_written_to(tmp_path: Path, built: Place) -> None:
    Remote(f"file://{tmp_path}/remote", writable=False).put(built.store, REQUEST, DIGEST, "m")
    assert not (tmp_path / "remote").exists()


def test_wrong_content(directory: Path, empty: Place) -> None:
    archive = directory / "kernels" / f"{DIGEST}.tar.gz"
    content = archive.read_bytes()
    archive.write_bytes(content[:-20] + bytes(20))
    remote = Remote(f"file://{directory}", writable=False)
    assert_not_taken(empty, remote, "has other bytes than its digest says")
    archive.write_bytes(content)
    assert_taken(empty, remote)


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"kernel": "x"}'])
def test_a_damaged_record_of_a_request(note: str, directory: Path, empty: Place) -> None:
    (directory / "requests" / f"{REQUEST}.json").write_text(note)
    assert_not_taken(empty, Remote(f"file://{directory}", writable=False), "nothing is taken from")


def test_a_request_without_its_archive(directory: Path, empty: Place) -> None:
    (directory / "devel" / f"{DIGEST}.tar.gz").unlink()
    assert_not_taken(empty, Remote(f"file://{directory}", writable=False), "nothing is taken from")


def test_a_server_that_dies_halfway(served: Served, empty: Place) -> None:
    note = (served.directory / "requests" / f"{REQUEST}.json").stat().st_size
    served.cut = [note, note, 100, 100, 100, 100, 100, 100, 100, 100]
    assert_not_taken(empty, Remote(served.url, writable=False), "nothing is taken from")


def test_a_server_that_is_broken(served: Served, empty: Place) -> None:
    served.statuses = [500] * 20
    assert Remote(served.url, writable=False).fetch(empty.store, REQUEST) is None


def test_no_server(empty: Place) -> None:
    remote = Remote("http://127.0.0.1:9", writable=True)
    assert remote.fetch(empty.store, REQUEST) is None


def test_a_place_that_cannot_be_written(tmp_path: Path, built: Place) -> None:
    (tmp_path / "file").write_text("")
    Remote(f"file://{tmp_path}/file", writable=True).put(built.store, REQUEST, DIGEST, "malta")
    assert "nothing is put into the remote store" in built.progress.lines[-1]


def test_a_url_that_is_no_store() -> None:
    with pytest.raises(BadInput, match="is not the address of a remote store"):
        Remote("gopher://host", writable=False)


def test_remote_of_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KERNELVM_REMOTE", raising=False)
    assert remote_of_environment() is None
    monkeypatch.setenv("KERNELVM_REMOTE", f"file://{tmp_path}/")
    remote = remote_of_environment()
    assert remote
    assert (remote.url, remote.writable) == (f"file://{tmp_path}", False)
    monkeypatch.setenv("KERNELVM_REMOTE_WRITE", "1")
    remote = remote_of_environment()
    assert remote
    assert remote.writable


@pytest.mark.filterwarnings("ignore")
def test_fetch_and_put_over_s3(built: Place, empty: Place) -> None:
    """moto's server speaks S3 over HTTP."""
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    pytest.importorskip("s3fs")
    server = server_of(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {
            "key": "k",
            "secret": "s",
            "client_kwargs": {
                "endpoint_url": f"http://{host}:{port}",
                "region_name": "us-east-1",
            },
        }
        remote = Remote("s3://bucket/kernels", writable=True, options=options)
        remote._files.call_s3("create_bucket", Bucket="bucket")
        remote.put(built.store, REQUEST, DIGEST, "malta-6.12")
        assert built.progress.lines == ["put malta-6.12 into s3://bucket/kernels"]
        fresh = Remote("s3://bucket/kernels", writable=False, options=options)
        fresh._files.invalidate_cache()
        assert_taken(empty, fresh)
        note = json.loads(fresh._files.cat_file(f"bucket/kernels/requests/{REQUEST}.json"))
        assert note["kernel"] == DIGEST
    finally:
        server.stop()


SSH_SERVER = """
import asyncio, sys, asyncssh
class Anybody(asyncssh.SSHServer):
    def begin_auth(self, username):
        return False
async def serve():
    key = asyncssh.generate_private_key("ssh-ed25519")
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=Anybody, server_host_keys=[key], sftp_factory=True
    )
    print(server.get_port(), flush=True)
    await asyncio.Event().wait()
asyncio.run(serve())
"""


@contextlib.contextmanager
def ssh_server(log: Path) -> Iterator[int]:
    """Serve files over SSH to whoever comes, from a process of its own; give the port."""
    with spawn([sys.executable, "-c", SSH_SERVER], output=log):
        wait_until(lambda: log.read_text().endswith("\n"), "the server's port")
        yield int(log.read_text())


@pytest.mark.filterwarnings("ignore")
def test_fetch_and_put_over_ssh(built: Place, empty: Place, tmp_path: Path) -> None:
    pytest.importorskip("sshfs")
    with ssh_server(tmp_path / "port") as port:
        options = {"username": "me", "known_hosts": None, "config": None, "client_keys": None}
        url = f"ssh://127.0.0.1:{port}{tmp_path}/there"
        remote = Remote(url, writable=True, options=options)
        remote.put(built.store, REQUEST, DIGEST, "malta-6.12")
        assert built.progress.lines == [f"put malta-6.12 into {url}"]
        assert (tmp_path / "there" / "kernels" / f"{DIGEST}.tar.gz").is_file()
        assert_taken(empty, Remote(url, writable=False, options=options))
