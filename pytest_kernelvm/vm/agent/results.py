"""Values that a guest's files and programs are read into."""

from __future__ import annotations

import os
import stat
import struct
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pytest_kernelvm.arch.base import struct_order


@dataclass(frozen=True, kw_only=True, slots=True)
class CommandResult:
    """A program that ran in the guest.

    Attributes:
        argv: What was run.
        status: Exit status; minus the signal that ended it; 127 if it could not be started.
        errno: Why it could not be started, by the host's numbers, else 0.
        raw_output: Standard output.
        errors: Standard error as text.
    """

    argv: tuple[str, ...]
    status: int
    errno: int
    raw_output: bytes
    errors: str

    @property
    def output(self) -> str:
        """Standard output as text."""
        return self.raw_output.decode(errors="replace")

    @property
    def ended(self) -> str:
        """How it ended, in words."""
        if self.errno:
            return f"could not start: {os.strerror(self.errno)}"
        return f"status {self.status}"

    def __str__(self) -> str:
        text = "".join(f"\n  {line}" for line in (self.output + self.errors).splitlines())
        return f"{' '.join(self.argv)} → {self.ended}{text}"


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedModule:
    """A line of /proc/modules (kernel/module/procfs.c, m_show).

    Attributes:
        name: The module's.
        size_bytes: Of its core.
        use_count: References; -1 in a kernel that cannot unload modules.
        holders: The modules that use it.
        state: Live, Loading or Unloading.
    """

    name: str
    size_bytes: int
    use_count: int
    holders: tuple[str, ...]
    state: str


def parse_proc_modules(text: str) -> tuple[LoadedModule, ...]:
    """Return the modules of a /proc/modules, latest loaded first.

    Args:
        text: Of the file.

    Returns:
        One module a line, in the file's order.
    """
    found = []
    for line in text.splitlines():
        name, size, count, holders, state, *_rest = line.split()
        found.append(
            LoadedModule(
                name=name,
                size_bytes=int(size),
                use_count=-1 if count == "-" else int(count),
                holders=tuple(h for h in holders.split(",") if h not in ("", "-", "[permanent]")),
                state=state,
            )
        )
    return tuple(found)


@dataclass(frozen=True, kw_only=True, slots=True)
class FileStatus:
    """What statx(2) says of a file; a link itself, not what it points at.

    Attributes:
        mode: Kind and permissions, as in st_mode.
        uid: The owner.
        gid: The group.
        size_bytes: Of the content.
        links: How many names it has.
    """

    mode: int
    uid: int
    gid: int
    size_bytes: int
    links: int

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


STATX_BYTES = 256


def parse_statx(raw: bytes, byteorder: Literal["big", "little"]) -> FileStatus:
    """Return the status in a struct statx (include/uapi/linux/stat.h).

    Args:
        raw: The struct.
        byteorder: The guest's.

    Returns:
        The fields that we know.
    """
    order = struct_order(byteorder)
    _mask, _block, _attributes, links, uid, gid, mode, _pad, _inode, size = struct.unpack_from(
        f"{order}IIQIIIHHQQ", raw
    )
    return FileStatus(mode=mode, uid=uid, gid=gid, size_bytes=size, links=links)


def parse_directory(raw: bytes, byteorder: Literal["big", "little"]) -> list[str]:
    """Return the names in a run of struct linux_dirent64 (getdents64(2)).

    Args:
        raw: The structs, one behind the other.
        byteorder: The guest's.

    Returns:
        The names in the kernel's order, without `.` and `..`.
    """
    order = struct_order(byteorder)
    names = []
    at = 0
    while at < len(raw):
        (length,) = struct.unpack_from(f"{order}H", raw, at + 16)
        name = raw[at + 19 : at + length].split(b"\0")[0].decode("utf-8", "surrogateescape")
        if name not in (".", ".."):
            names.append(name)
        at += length
    return names


class Uname(NamedTuple):
    """The fields of a struct new_utsname (include/uapi/linux/utsname.h)."""

    sysname: str
    nodename: str
    release: str
    version: str
    machine: str
    domainname: str


_UTSNAME_FIELD_BYTES = 65
UTSNAME_BYTES = 6 * _UTSNAME_FIELD_BYTES


def parse_utsname(raw: bytes) -> Uname:
    """Return the fields of a struct new_utsname.

    Args:
        raw: The struct.

    Returns:
        Its fields as text.
    """
    starts = range(0, UTSNAME_BYTES, _UTSNAME_FIELD_BYTES)
    fields = (raw[at : at + _UTSNAME_FIELD_BYTES].split(b"\0")[0] for at in starts)
    return Uname(*(field.decode(errors="replace") for field in fields))
