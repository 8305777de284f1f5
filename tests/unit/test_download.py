"""Downloads from a server that breaks off, refuses, or gives another file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_kernelvm.config.sources import Source
from pytest_kernelvm.errors import BadInput, ToolMissing
from pytest_kernelvm.fetch.download import fetch
from pytest_kernelvm.fetch.tarball import RemoteTarball
from pytest_kernelvm.kernel.source.source import kernel_version, locate, unpacked
from pytest_kernelvm.kernel.source.version import resolve
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.store.store import Store
from tests.unit.serving import Served, serving
from tests.unit.test_source import FILES, RecordedProgress, make_tarball

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    directory = tmp_path / "served"
    directory.mkdir()
    (directory / "file.bin").write_bytes(CONTENT)
    with serving(directory) as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", Silent())


def get(store: Store, served: Served, sha256: str = SHA256, name: str = "file.bin") -> Path:
    return fetch(store, f"{served.url}/{name}", sha256, pauses_s=(0.0, 0.0))


def ranges(served: Served) -> list[str]:
    return [asked[2] for asked in served.asked]


def test_a_file_is_downloaded_once(store: Store, served: Served) -> None:
    path = get(store, served)
    assert path.name == "file.bin"
    assert path.read_bytes() == CONTENT
    assert get(store, served) == path
    assert ranges(served) == [""]


def test_a_broken_transfer_goes_on_where_it_broke_off(store: Store, served: Served) -> None:
    served.cut = [1000, 0, 500_000]
    assert get(store, served).read_bytes() == CONTENT
    assert ranges(served) == ["", "bytes=1000-", "bytes=1000-", "bytes=501000-"]


def test_a_server_that_knows_no_ranges_begins_anew(store: Store, served: Served) -> None:
    served.ranges = False
    served.cut = [700_000]
    assert get(store, served).read_bytes() == CONTENT
    assert ranges(served) == ["", "bytes=700000-"]


def test_the_next_call_resumes_an_interrupted_download(store: Store, served: Served) -> None:
    served.cut = [600_000, 0, 0, 0]
    with pytest.raises(ToolMissing, match=r"file\.bin cannot be downloaded") as broken:
        get(store, served)
    assert broken.value.evidence.seen == "600000 bytes have come and are kept"
    assert not list(store.root.glob("tmp/*"))
    assert get(Store(store.root, Silent()), served).read_bytes() == CONTENT
    assert ranges(served)[-1] == "bytes=600000-"


def test_busy_servers_are_asked_again(store: Store, served: Served) -> None:
    served.statuses = [503, 429]
    assert get(store, served).read_bytes() == CONTENT


def test_a_missing_file_is_not_asked_for_again(store: Store, served: Served) -> None:
    with pytest.raises(BadInput, match="404"):
        get(store, served, name="other.bin")
    assert len(served.asked) == 1


def test_a_file_with_another_digest_is_refused(store: Store, served: Served) -> None:
    with pytest.raises(BadInput, match="is not the expected file") as bad:
        get(store, served, sha256="0" * 64)
    assert bad.value.evidence.expected == f"sha256 {'0' * 64}"
    assert bad.value.evidence.seen == f"sha256 {SHA256}"
    assert not list(store.root.glob("downloads/*"))


def test_a_file_that_changes_between_attempts(store: Store, served: Served) -> None:
    served.cut = [600_000, 0, 0, 0]
    with pytest.raises(ToolMissing):
        get(store, served)
    other = CONTENT[::-1]
    (served.directory / "file.bin").write_bytes(other)
    with pytest.raises(BadInput, match="is not the expected file"):
        get(store, served)
    (served.directory / "file.bin").write_bytes(CONTENT)
    assert get(store, served).read_bytes() == CONTENT
    assert ranges(served)[-1] == ""


def test_no_server(store: Store, served: Served) -> None:
    url = served.url.rpartition(":")[0] + ":9"
    with pytest.raises(ToolMissing, match="Connection refused"):
        fetch(store, f"{url}/file.bin", SHA256, pauses_s=(0.0,))


def test_a_url_that_is_no_address(store: Store) -> None:
    with pytest.raises(BadInput, match="is no address"):
        fetch(store, "nonsense", SHA256, pauses_s=())


# Sources


def test_a_tarball_of_the_network(store: Store, served: Served) -> None:
    tarball = make_tarball(served.directory / "linux-6.12.30.tar.xz", FILES)
    served.cut = [100]
    source = Source(
        kind="tarball",
        value=f"{served.url}/linux-6.12.30.tar.xz",
        where="m.yaml:1:1",
        sha256=tarball.digest,
    )
    located = locate(store, source)
    assert isinstance(located, RemoteTarball)
    assert served.asked == []
    assert kernel_version(unpacked(store, located)) == "6.12.30"
    assert located.digest == tarball.digest


def test_a_version_of_kernel_org(
    store: Store, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    (served.directory / "v6.x").mkdir()
    tarball = make_tarball(served.directory / "v6.x" / "linux-6.99.30.tar.xz", FILES)
    sums = f"-----BEGIN PGP SIGNED MESSAGE-----\n{tarball.digest}  linux-6.99.30.tar.xz\n"
    (served.directory / "v6.x" / "sha256sums.asc").write_text(sums)
    monkeypatch.setenv("KERNELVM_KERNEL_ORG", f"{served.url}/")
    progress = RecordedProgress()
    telling = Store(store.root, progress)
    source = Source(kind="version", value="6.99.30", where="m.yaml:3:5")
    found = resolve(telling, source)
    assert found == replace(
        source,
        kind="tarball",
        value=f"{served.url}/v6.x/linux-6.99.30.tar.xz",
        sha256=tarball.digest,
    )
    assert progress.lines == [f"version 6.99.30: {found.value}"]
    assert kernel_version(unpacked(telling, locate(telling, source))) == "6.12.30"
    asked = len(served.asked)
    assert resolve(telling, source) == found
    assert len(served.asked) == asked
    with pytest.raises(BadInput, match=r"kernel\.org has no version 6\.99\.31") as absent:
        resolve(telling, replace(source, value="6.99.31"))
    assert absent.value.evidence.seen == "there are 6.99.30"
    with pytest.raises(BadInput, match=r"no list of versions like 7\.1"):
        resolve(telling, replace(source, value="7.1"))


def test_a_version_without_a_network(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELVM_KERNEL_ORG", "http://127.0.0.1:9")
    with pytest.raises(ToolMissing, match=r"kernel\.org can't be reached") as missing:
        resolve(store, Source(kind="version", value="6.99.30", where="m.yaml:3:5"))
    assert "apt-get install linux-source-6.99" in missing.value.evidence.next_step
