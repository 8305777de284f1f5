"""What of a userland becomes an initramfs, and what is refused before anything is fetched."""

import stat
from pathlib import Path

import pytest

from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.config.load import read_config
from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.guest.userland import Userland, entries_of, obtain_userland
from pytest_kernelvm.modules.closure import resolve_closure
from pytest_kernelvm.modules.tree import ModuleTree
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.session.guest_request import GuestRequest
from pytest_kernelvm.store.store import Store

VM_CONFIGS = Path(__file__).parents[2] / "vm-configs"


def test_files_and_links_become_entries(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    (root / "bin/tool").write_bytes(b"\x7fELF")
    (root / "bin/tool").chmod(0o755)
    (root / "bin/other").symlink_to("/bin/tool")
    tree = ModuleTree(tmp_path)
    found = entries_of(Userland(name="busybox", root=root), tree, resolve_closure(tree, ()))
    assert [(entry.path, entry.content) for entry in found] == [
        ("bin/other", b"/bin/tool"),
        ("bin/tool", b"\x7fELF"),
    ]
    assert found[0].mode == stat.S_IFLNK | 0o777
    assert found[1].mode == stat.S_IFREG | 0o755


def test_no_kmod_where_debian_has_no_port(tmp_path: Path) -> None:
    store = Store(tmp_path, Silent())
    without = [arch for arch in ARCHES.values() if not arch.debian_arch]
    assert without
    for arch in without:
        with pytest.raises(BadInput, match=f"Debian has no kmod for {arch.name}") as error:
            obtain_userland(store, arch, "kmod")
        assert "busybox" in error.value.evidence.next_step
    assert list(tmp_path.iterdir()) == []


def test_marker_takes_the_known_ones() -> None:
    assert GuestRequest.from_marker({"userland": "kmod"}).userland == "kmod"
    with pytest.raises(TypeError, match="userland is one of none, kmod, busybox, not 'toybox'"):
        GuestRequest.from_marker({"userland": "toybox"})


def write_config(directory: Path, userland: str) -> Path:
    file = directory / "some.yaml"
    file.write_text(f'arch: mips\nkernel: {{version: "6.12"}}\nguest: {{userland: {userland}}}\n')
    return file


def test_vm_config_names_one(tmp_path: Path) -> None:
    (cell,) = read_config(write_config(tmp_path, "busybox"))
    assert cell.guest.userland == "busybox"
    assert {cell.guest.userland for cell in read_config(VM_CONFIGS / "malta.yaml")} == {"none"}


def test_vm_config_names_an_unknown_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"some\.yaml:3:\d+: .*busybocks"):
        read_config(write_config(tmp_path, "busybocks"))
