"""What an archive of others may hold: each member is judged before anything of it is written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.tar_members import Member, MemberKind, TarMembers

# Text is compressed to a tenth. What grows more than this, and is not small, is to fill disks.
MOST_GROWTH = 200
_GROWS_FREELY_BYTES = 256 << 20
_MOST_NAME_BYTES = 4095
_MOST_PART_BYTES = 255
_SIMPLE = re.compile(rb"[A-Za-z0-9_-][A-Za-z0-9_.,+-]{0,90}")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")

PLAIN_KINDS = (MemberKind.FILE, MemberKind.DIRECTORY)
_LINKS = (MemberKind.SYMLINK, MemberKind.HARD_LINK)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveRules:
    """What an archive may hold; by default what kernels and packages have.

    kinds: of members; nothing else is unpacked. most_bytes: of all files, with their holes.
    most_members: files, directories and links. most_parts: of a name.
    printable: whether names have to be text that can be shown. climbing: whether a link may have
    `..` behind a name, where they may follow another link. permissions: whether those of the
    archive are taken over; else a file is 0755 if its owner may run it, 0644 otherwise.
    """

    kinds: tuple[MemberKind, ...] = (
        *PLAIN_KINDS,
        MemberKind.CONTIGUOUS_FILE,
        MemberKind.SPARSE_FILE,
        *_LINKS,
    )
    # A kernel's source has 92,000 members and 1.6 GB, its packages with debugging information 6 GB.
    most_bytes: int = 16 << 30
    most_members: int = 1_000_000
    most_parts: int = 200
    printable: bool = False
    climbing: bool = True
    permissions: bool = True

    @property
    def words(self) -> str:
        """What is allowed, for messages."""
        links = any(kind in self.kinds for kind in _LINKS)
        what = (
            "files, directories, and links that stay inside" if links else "files and directories"
        )
        return f"{what}; at most {self.most_members:,} of them and {_size(self.most_bytes)}"


USUAL = ArchiveRules()


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpackOptions:
    """How an archive is unpacked.

    what: the archive in words. rules: what it may hold. strip: how many of a name's first
    components are left out. rooted: whether an absolute link counts from the directory, as in a
    package, instead of being refused. packed_bytes: the size of what was compressed, 0 where
    nothing was.
    """

    what: str
    rules: ArchiveRules = USUAL
    strip: int = 0
    rooted: bool = False
    packed_bytes: int = 0


def refuse(way: UnpackOptions, member: Member, seen: str) -> NoReturn:
    """Raise BadInput about a member."""
    raise BadInput(
        f"{way.what} holds what is not unpacked here",
        Evidence(
            expected=way.rules.words,
            seen=f"{shown(member.name)}: {seen}",
            next_step="do not trust it: whoever made it can say why this is in it",
        ),
    )


def refuse_link(what: str, name: bytes, target: bytes, rules: ArchiveRules) -> NoReturn:
    """Raise BadInput about a symbolic link that leads out. what: where it is, in words."""
    raise BadInput(
        f"{what} has a link that leads out of it",
        Evidence(expected=rules.words, seen=f"{shown(name)} -> {shown(target)}"),
    )


def shown(name: bytes) -> str:
    """Return a name as it is shown, without what is beyond a line."""
    text = repr(name)[1:]
    return text if len(text) <= 120 else f"{text[:100]}… ({len(name)} bytes)"


def _size(size_bytes: int) -> str:
    in_gib = size_bytes >= 1 << 30
    return f"{size_bytes >> 30} GiB" if in_gib else f"{size_bytes >> 20} MiB"


class ArchiveTotals:
    """What the members of an archive come to so far. stored_bytes: of their content in it."""

    def __init__(self, members: TarMembers, way: UnpackOptions) -> None:
        self._members = members
        self._way = way
        self._rules = way.rules
        grows_to = max(_GROWS_FREELY_BYTES, MOST_GROWTH * way.packed_bytes)
        self._most_stored = grows_to if way.packed_bytes else way.rules.most_bytes
        self._count = self._bytes = self.stored_bytes = 0

    def add(self, member: Member) -> None:
        """Count a member. Raises BadInput if it is of a kind, or one more, than is allowed."""
        rules = self._rules
        if member.kind not in rules.kinds:
            refuse(self._way, member, member.kind.value)
        self._count += 1
        self._bytes += member.size_bytes
        self.stored_bytes += member.stored_bytes
        if self._count > rules.most_members:
            refuse(self._way, member, f"more than {rules.most_members:,} files and directories")
        if self._bytes + self._members.words_bytes > rules.most_bytes:
            refuse(self._way, member, f"more than {_size(rules.most_bytes)}")
        if self.stored_bytes > self._most_stored:
            seen = f"{self.stored_bytes:,} bytes so far out of"
            refuse(self._way, member, f"{seen} {self._way.packed_bytes:,} compressed ones")

    def __bool__(self) -> bool:
        return self._count > 0


class MemberNames:
    """The names in an archive, each checked and turned into a path below the directory."""

    def __init__(self, way: UnpackOptions) -> None:
        self._way = way
        self._checked_above: dict[bytes, bytes] = {}

    def path(self, name: bytes, member: Member) -> bytes:
        """Return the path of a name, empty for the directory itself or what is above it.

        member: whose it is. Raises BadInput for a name that leads out or is none.
        """
        above, _slash, last = name.rpartition(b"/")
        known = self._checked_above.get(above)
        # What lies beside something that was checked needs no more than a look at its last part.
        if known is None or not _SIMPLE.fullmatch(last):
            return self._checked(name, member)
        return known + b"/" + last

    def _checked(self, name: bytes, member: Member) -> bytes:
        way, rules = self._way, self._way.rules
        if _CONTROL.search(name):
            refuse(way, member, "a control character in a name")
        if rules.printable and not _is_printable(name):
            refuse(way, member, "a name that cannot be shown")
        if name.startswith(b"/"):
            refuse(way, member, "an absolute name")
        if len(name) > _MOST_NAME_BYTES:
            refuse(way, member, f"a name of {len(name)} bytes")
        # As tar(1) counts what it strips: a leading `.` is a component too.
        parts = [part for part in name.split(b"/") if part]
        if b".." in parts:
            refuse(way, member, "`..` in a name")
        if len(parts) > rules.most_parts:
            refuse(way, member, f"a name with {len(parts)} parts")
        if max(map(len, parts), default=0) > _MOST_PART_BYTES:
            refuse(way, member, f"a file name of more than {_MOST_PART_BYTES} bytes")
        path = b"/".join(part for part in parts[way.strip :] if part != b".")
        above = path.rpartition(b"/")[0]
        if above and not name.endswith(b"/"):
            self._checked_above[name.rpartition(b"/")[0]] = above
        return path

    def target(self, member: Member, path: bytes) -> bytes:
        """Return where a symbolic link leads to, as it is made. path: the link's own."""
        way, target = self._way, member.target
        if not target or _CONTROL.search(target) or len(target) > _MOST_NAME_BYTES:
            refuse(way, member, f"a symbolic link to {shown(target)}")
        if way.rules.printable and not _is_printable(target):
            refuse(way, member, f"a symbolic link to {shown(target)}")
        if not way.rules.climbing and _climbs(target):
            refuse(way, member, f"a symbolic link to {shown(target)}, `..` behind a name")
        if target.startswith(b"/"):
            if not way.rooted:
                refuse_link(way.what, path, target, way.rules)
            target = b"../" * path.count(b"/") + (target.lstrip(b"/") or b".")
        return target


def _is_printable(name: bytes) -> bool:
    try:
        return name.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _climbs(target: bytes) -> bool:
    """Whether `..` stand behind a name in a link's target."""
    parts = target.split(b"/")
    names = [number for number, part in enumerate(parts) if part not in (b"..", b".", b"")]
    return bool(names) and b".." in parts[names[0] :]
