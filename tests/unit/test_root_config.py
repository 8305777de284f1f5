"""What a vm-config may say of a root file system, and what it may not."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from pytest_kernelvm.config.load import read_config
from pytest_kernelvm.config.roots import Pseudofile, Root
from pytest_kernelvm.errors import BadInput

HEAD = """\
    arch: mips
    kernel:
      version: "6.12"
    """


def root_in(directory: Path, text: str) -> Root | None:
    file = directory / "vm.yaml"
    file.write_text(textwrap.dedent(HEAD) + textwrap.dedent(text))
    (cell,) = read_config(file)
    return cell.root


def test_a_vm_config_without_a_root(tmp_path: Path) -> None:
    assert root_in(tmp_path, "") is None


def test_the_defaults_of_a_root(tmp_path: Path) -> None:
    root = root_in(tmp_path, "root: {kind: squashfs}")
    assert root
    assert (root.kind, root.by, root.store) == ("squashfs", "", "/nix/store")
    assert (root.erase_bytes, root.free_bytes) == (64 << 10, 1 << 20)
    assert root.modules == ("phram", "mtdblock", "squashfs")


def test_all_keys_of_a_root(tmp_path: Path) -> None:
    root = root_in(
        tmp_path,
        """
        root:
          kind: jffs2
          by: device-tree
          store: /gnu/store
          erase_kib: 128
          free_kib: 0
          options: compr=none
          pseudofiles:
            /run: directory
            /run/ctl: fifo
            /tmp: {kind: directory, mode: 1777}
            /etc/hostname: {kind: file, content: "010", mode: 0640, owner: 3, group: 4}
            /bin/sh: {kind: link, to: /gnu/store/x/bin/sh}
            /dev/null: {kind: character, major: 1, minor: 3, mode: "0666"}
            /dev/mtdblock0: {kind: block, major: 31, minor: 0}
        """,
    )
    assert root
    assert (root.by, root.store, root.options) == ("device-tree", "/gnu/store", "compr=none")
    assert (root.erase_bytes, root.free_bytes) == (128 << 10, 0)
    found = {each.path: each for each in root.pseudofiles}
    assert found["/run"].mode == 0o755
    assert found["/run/ctl"].mode == 0o644
    assert found["/tmp"].mode == 0o1777
    hostname = found["/etc/hostname"]
    assert (hostname.content, hostname.mode) == (b"010", 0o640)
    assert (hostname.owner, hostname.group) == (3, 4)
    assert found["/bin/sh"].to == "/gnu/store/x/bin/sh"
    assert (found["/dev/null"].major, found["/dev/null"].minor) == (1, 3)
    assert found["/dev/mtdblock0"].kind == "block"


def test_contents_are_relative_to_the_vm_config(tmp_path: Path) -> None:
    (tmp_path / "closure").mkdir()
    root = root_in(tmp_path, "root: {kind: ext4, contents: closure}")
    assert root
    assert root.contents == tmp_path / "closure"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("root: {}", "vm.yaml:4:7: the key 'kind' is missing"),
        ("root: {kind: ubifs}", "vm.yaml:4:14: 'ubifs': allowed: jffs2, squashfs, ext4"),
        ("root: {kind: ext4, by: magic}", "'magic': allowed: cmdline, device-tree"),
        ("root: {kind: ext4, erase_kib: 6}", "erase blocks of 6144 bytes"),
        ("root: {kind: ext4, store: nix}", "expected an absolute path"),
        ("root: {kind: ext4, store: /nix/../x}", "an empty part, . or .."),
        ("root: {kind: ext4, contents: nowhere}", "nowhere is no directory"),
        ("root: {kind: ext4, options: a b}", "expected one word"),
        ("root: {kind: ext4, pseudofiles: {/a: file}}", "'file': allowed: directory, fifo"),
        ("root: {kind: ext4, pseudofiles: {/a: {kind: link}}}", "/a: a link lacks"),
        (
            "root: {kind: ext4, pseudofiles: {/a: {kind: fifo, to: b}}}",
            "/a: a fifo has a key that it does not take: to",
        ),
        (
            "root: {kind: ext4, pseudofiles: {/a: {kind: block, major: 1}}}",
            "/a: a block lacks a required key: minor",
        ),
        (
            "root: {kind: ext4, pseudofiles: {/a: {kind: directory, mode: 0o755}}}",
            "expected octal digits such as 0755",
        ),
        ("root: {kind: ext4, pseudofiles: {a: fifo}}", "expected an absolute path"),
        ("root: {kind: ext4, pseudofiles: {/a//b: fifo}}", "an empty part"),
        ("root: {kind: ext4, pseudofiles: {/a/: fifo}}", "an empty part"),
        ("root: {kind: ext4, pseudofiles: {/: directory}}", "no absolute path"),
        (
            "root: {kind: ext4, pseudofiles: {/a: fifo, /a/b: fifo}}",
            "/a/b is below /a, which is no directory but a fifo",
        ),
        (
            "root: {kind: ext4, pseudofiles: {/nix/store/x: fifo}}",
            "the fifo /nix/store/x is in the way of what is mounted at /nix/store",
        ),
        ("root: {kind: ext4, pseudofiles: {/nix: fifo}}", "in the way of what is mounted at /nix"),
        ("root: {kind: ext4, pseudofiles: {/persist: directory}}", "in the way"),
    ],
)
def test_mistakes_in_a_root(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadInput) as failed:
        root_in(tmp_path, text)
    assert says in str(failed.value)
    assert "vm.yaml:4" in str(failed.value)


@pytest.mark.parametrize(
    "given",
    [
        {"path": "/a", "kind": "socket"},
        {"path": "/a\nb", "kind": "fifo"},
        {"path": "/" + "a" * 300, "kind": "fifo"},
        {"path": "/a", "kind": "link"},
    ],
)
def test_invalid_pseudofiles(given: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Pseudofile(**given)


def test_a_pseudofile_that_is_there_twice() -> None:
    one = Pseudofile(path="/a", kind="fifo")
    with pytest.raises(BadInput, match="/a is in the list twice"):
        Root(kind="ext4", pseudofiles=(one, one))
