"""Images of root file systems: the store, `activate`, and the list of what that makes."""

from __future__ import annotations

import functools
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.config.roots import Pseudofile, Root
from pytest_kernelvm.errors import BadInput, Evidence, HarnessError
from pytest_kernelvm.guest.cpio import Entry, with_parents
from pytest_kernelvm.guest.programs import GuestPrograms
from pytest_kernelvm.process import ADMIN_DIRECTORIES, failure, find_program, run
from pytest_kernelvm.store.digest import Digest, digest_of, file_digest
from pytest_kernelvm.store.kinds import ROOTS
from pytest_kernelvm.store.store import StagingDirectory, Store
from pytest_kernelvm.store.writing import raise_if_full
from pytest_kernelvm.toolchain.image_tools import ImageTool

IMAGE = "image"
# Part of every digest. It changes when images are made in another way.
FORMAT = 2
TOOL_TIMEOUT_S = 120.0

# mkfs.jffs2 makes blocks of at least so many bytes, whatever its options are (mtd-utils,
# mkfs.jffs2.c).
LEAST_JFFS2_ERASE_BYTES = 8 << 10
# The kernel mounts no fewer (fs/jffs2/fs.c, jffs2_do_fill_super()).
LEAST_JFFS2_BLOCKS = 5
# The UUID of an ext4 file system, which also seeds the hashes of its directories. Any will do if it
# is always the same.
_UUID = "6b65726e-656c-4766-8d2d-726f6f740000"
_EXT4_BLOCK_BYTES = 1024
# Inode tables, bitmaps and a journal of the least size, which has 1024 blocks.
_EXT4_OVERHEAD_BYTES = 2 << 20
_SPARE_INODES = 256

_LETTERS = {
    "directory": "d",
    "file": "f",
    "link": "l",
    "character": "c",
    "block": "b",
    "fifo": "p",
}


# By kind.
TOOLS = {
    "jffs2": ImageTool(
        program="mkfs.jffs2",
        packages=(*("mtd-utils",) * 3, "mtdutils", "mtd-utils"),
    ),
    "squashfs": ImageTool(
        program="mksquashfs",
        packages=(
            "squashfs-tools",
            "squashfs-tools",
            "squashfs-tools",
            "squashfsTools",
            "squashfs",
        ),
        version_flag="-version",
    ),
    "ext4": ImageTool(program="mke2fs", packages=("e2fsprogs",)),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RootImage:
    """An image as it lies in memory.

    Attributes:
        path: The file.
        size_bytes: The size of the whole flash device.
    """

    path: Path
    size_bytes: int


def make_root_image(
    store: Store,
    programs: GuestPrograms,
    root: Root,
    arch: Arch,
    contents: Iterable[Entry],
    *,
    erase_bytes: int,
) -> RootImage:
    """Return the image of a root, made unless the store has it.

    Raises ToolMissing with the package, BadInput for pseudofiles that are in each other's way,
    blocks that are too small or what no store has, HarnessError with the tool's words.

    Args:
        store: Where it is kept.
        programs: `activate` is put into the image.
        root: What the vm-config says of it.
        arch: Says the byte order.
        contents: What else would be in the initramfs; it is put into the image's store, with a link
            at the place of each file.
        erase_bytes: The size of the device's erase blocks.
    """
    _require_jffs2_blocks(root, erase_bytes)
    files = _files(root, programs, contents)
    tool = find_tool(root.kind)
    digest = _image_digest(root, arch, files, erase_bytes, tool)

    def make(work: StagingDirectory) -> dict[str, Any]:
        directory = work.directory / "root"
        _write_tree(directory, with_parents(files))
        image = work.entry / IMAGE
        _MAKERS[root.kind](tool, directory, image, root, arch, erase_bytes)
        return {"arch": arch.name, "kind": root.kind}

    entry = store.obtain(ROOTS, digest, make, label=f"a root file system ({root.kind})")
    return RootImage(path=entry / IMAGE, size_bytes=(entry / IMAGE).stat().st_size)


def _image_digest(
    root: Root, arch: Arch, files: Sequence[Entry], erase_bytes: int, tool: str
) -> Digest:
    """Return what names an image: all that makes it."""
    return digest_of(
        {
            "format": FORMAT,
            "kind": root.kind,
            "endianness": arch.endianness if root.kind == "jffs2" else "",
            "erase_bytes": erase_bytes,
            "free_bytes": root.free_bytes,
            "files": _digest(files),
            "tool": _version(tool, TOOLS[root.kind].version_flag),
        }
    )


def _require_jffs2_blocks(root: Root, erase_bytes: int) -> None:
    if root.kind == "jffs2" and erase_bytes < LEAST_JFFS2_ERASE_BYTES:
        raise BadInput(
            f"JFFS2 does not take erase blocks of {erase_bytes} bytes",
            Evidence(
                expected=f"at least {LEAST_JFFS2_ERASE_BYTES}; phram uses a page for what a device "
                "tree describes",
                where=(root.where,) if root.where else (),
                next_step="use `by: cmdline`, which passes their size",
            ),
        )


def _files(root: Root, programs: GuestPrograms, contents: Iterable[Entry]) -> list[Entry]:
    """Return what is in the image: the store, `activate`, and the list of what that makes."""
    guest_files = [each for each in with_parents(contents) if not stat.S_ISDIR(each.mode)]
    item = f"{root.store[1:]}/{_digest(guest_files)[:32]}-guest"
    files = [*_contents(root)]
    files += [replace(each, path=f"{item}/{each.path}") for each in guest_files]
    files.append(
        Entry(
            path="activate",
            mode=stat.S_IFREG | 0o755,
            content=programs.activate.read_bytes(),
        )
    )
    listed = pseudofile_list(_with_links(root, guest_files, item))
    files.append(Entry(path="pseudofiles", mode=stat.S_IFREG | 0o644, content=listed))
    return files


def _contents(root: Root) -> Iterator[Entry]:
    """Yield what is in the directory that is put into the store."""
    if root.contents is None:
        return
    for path in sorted(root.contents.rglob("*")):
        mode, content = path.lstat().st_mode, b""
        if stat.S_ISLNK(mode):
            content = str(path.readlink()).encode()
        elif stat.S_ISREG(mode):
            content = path.read_bytes()
        elif not stat.S_ISDIR(mode):
            raise BadInput(
                f"{path} is neither file nor directory nor link",
                Evidence(expected="what a store has; devices and the like are pseudofiles"),
            )
        place = f"{root.store[1:]}/{path.relative_to(root.contents)}"
        yield Entry(path=place, mode=mode, content=content)


def _digest(entries: Sequence[Entry]) -> str:
    return digest_of(
        [[each.path, each.mode, hashlib.sha256(each.content).hexdigest()] for each in entries]
    )


def _with_links(root: Root, guest_files: Sequence[Entry], item: str) -> tuple[Pseudofile, ...]:
    """Return the root's pseudofiles, and links into the store where it names nothing else.

    Raises BadInput, as a root with all of these does, for what is in each other's way.
    """
    named = {each.path for each in root.pseudofiles}
    links = (
        Pseudofile(path=f"/{each.path}", kind="link", to=f"/{item}/{each.path}")
        for each in guest_files
        if f"/{each.path}" not in named
    )
    return replace(root, pseudofiles=(*root.pseudofiles, *links)).pseudofiles


def pseudofile_list(pseudofiles: Iterable[Pseudofile]) -> bytes:
    """Return what `activate` reads (its format is in activate.c), directories first.

    Args:
        pseudofiles: In any order.
    """
    by_path: dict[str, Pseudofile] = {}
    for each in pseudofiles:
        for above in each.above:
            by_path.setdefault(above, Pseudofile(path=above, kind="directory"))
        by_path[each.path] = each
    return b"".join(_listed(by_path[path]) for path in sorted(by_path))


def _listed(each: Pseudofile) -> bytes:
    content = each.to.encode() if each.kind == "link" else each.content
    number = len(content)
    if each.kind in ("character", "block"):
        # include/linux/kdev_t.h, new_encode_dev()
        number = each.minor & 0xFF | each.major << 8 | (each.minor & ~0xFF) << 12
    head = f"{_LETTERS[each.kind]} {each.mode:o} {each.owner} {each.group} {number} "
    return head.encode() + each.path[1:].encode() + b"\n" + content + b"\n"


def _write_tree(directory: Path, entries: Sequence[Entry]) -> None:
    """Write what an image is made of, with the same times whenever that is."""
    directory.mkdir(mode=0o755)
    for entry in entries:
        path = directory / entry.path
        if stat.S_ISDIR(entry.mode):
            path.mkdir()
        elif stat.S_ISLNK(entry.mode):
            path.symlink_to(entry.content.decode())
        else:
            path.write_bytes(entry.content)
    # The deepest first, as a directory may become one that nothing can be put into.
    for entry in reversed(entries):
        path = directory / entry.path
        if not stat.S_ISLNK(entry.mode):
            path.chmod(stat.S_IMODE(entry.mode))
        os.utime(path, (0, 0), follow_symlinks=False)
    os.utime(directory, (0, 0))


def _make_jffs2(
    tool: str, directory: Path, image: Path, root: Root, arch: Arch, erase_bytes: int
) -> None:
    order = f"--{arch.endianness}-endian"
    argv: list[str | Path] = [tool, f"--root={directory}", "-o", image, order]
    argv += [f"--eraseblock={erase_bytes}", "--squash-uids", "--faketime", "--pad"]
    _run(argv)
    least = max(image.stat().st_size + root.free_bytes, LEAST_JFFS2_BLOCKS * erase_bytes)
    _pad(image, erase_bytes, least, b"\xff")


def _make_squashfs(
    tool: str, directory: Path, image: Path, _root: Root, _arch: Arch, erase_bytes: int
) -> None:
    argv: list[str | Path] = [tool, directory, image, "-noappend", "-all-root", "-no-xattrs"]
    argv += ["-mkfs-time", "0", "-all-time", "0", "-processors", "1", "-quiet", "-no-progress"]
    _run(argv)
    _pad(image, erase_bytes, image.stat().st_size, b"\0")


def _make_ext4(
    tool: str, directory: Path, image: Path, root: Root, _arch: Arch, erase_bytes: int
) -> None:
    below = sorted(directory.rglob("*"))
    used = sum(-(-path.lstat().st_size // _EXT4_BLOCK_BYTES) + 1 for path in below)
    size = used * _EXT4_BLOCK_BYTES + _EXT4_OVERHEAD_BYTES + root.free_bytes
    size = -(-size // erase_bytes) * erase_bytes
    # mke2fs takes this for the current time (misc/mke2fs.c, lib/ext2fs).
    env = {"E2FSPROGS_FAKE_TIME": "1"}
    argv: list[str | Path] = [tool, "-q", "-t", "ext4", "-b", str(_EXT4_BLOCK_BYTES)]
    argv += ["-U", _UUID, "-E", f"hash_seed={_UUID},root_owner=0:0,nodiscard,lazy_itable_init=0"]
    argv += ["-N", str(_SPARE_INODES + len(below))]
    argv += ["-d", directory, image, str(size // _EXT4_BLOCK_BYTES)]
    _run(argv, env)
    # Owners and times that the files on the host cannot have.
    paths = [path.relative_to(directory) for path in below]
    fields = (*(f"{name} @0" for name in ("atime", "ctime", "mtime", "crtime")), "uid 0", "gid 0")
    lines = [
        f'set_inode_field "/{path}" {field}\n'
        for path in ("", "lost+found", *paths)
        for field in fields
    ]
    script = image.with_name("script")
    script.write_text("".join(lines))
    _run([find_tool("ext4", "debugfs"), "-w", "-f", script, image], env)
    script.unlink()


_MAKERS = {"jffs2": _make_jffs2, "squashfs": _make_squashfs, "ext4": _make_ext4}


def _pad(image: Path, erase_bytes: int, least_bytes: int, filler: bytes) -> None:
    """Make an image as long as its device is, which is whole blocks."""
    wanted = -(-least_bytes // erase_bytes) * erase_bytes
    with image.open("ab") as file:
        file.write(filler * (wanted - image.stat().st_size))


def _run(argv: Sequence[str | Path], env: dict[str, str] | None = None) -> None:
    done = run(argv, env=env, timeout_s=TOOL_TIMEOUT_S, check=False)
    if done.status != 0:
        raise_if_full(done.stderr)
        raise HarnessError(f"{Path(argv[0]).name} made no root file system", failure(done))


def find_tool(kind: str, program: str = "") -> str:
    """Return the full path of what makes images of a kind; raises ToolMissing with the package.

    Args:
        kind: The kind of file system.
        program: Another program of the same package; empty for the one that makes images.
    """
    tool = TOOLS[kind]
    hint = f"apt-get install {tool.packages[0]}"
    hint += "; `kernelvm doctor` names the packages of other systems"
    return find_program(program or tool.program, hint, places=ADMIN_DIRECTORIES)


@functools.cache
def _version(tool: str, flag: str) -> str:
    """Return what distinguishes one release of a tool from another."""
    done = run([tool, flag], timeout_s=TOOL_TIMEOUT_S, check=False)
    return (done.stdout or done.stderr).partition("\n")[0] or file_digest(Path(tool))
