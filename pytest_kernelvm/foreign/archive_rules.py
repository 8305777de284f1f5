"""What an archive of others may hold; each member is checked before any of it is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.tar_members import Member, MemberKind, TarMembers

# Text is compressed to a tenth. An archive of a higher ratio, unless it is small, is meant to fill
# a disk.
_MOST_RATIO = 200
_RATIO_FREE_BYTES = 256 << 20
_MOST_NAME_BYTES = 4095
_MOST_PART_BYTES = 255
_SIMPLE = re.compile(rb"[A-Za-z0-9_-][A-Za-z0-9_.,+-]{0,90}")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")

BASIC_KINDS = (MemberKind.FILE, MemberKind.DIRECTORY)
_LINKS = (MemberKind.SYMLINK, MemberKind.HARD_LINK)


@dataclass(frozen=True, kw_only=True, slots=True)
class ArchiveRules:
    """What an archive may hold; by default what kernels and packages have.

    Attributes:
        kinds: The kinds of members that are unpacked; all others are refused.
        most_bytes: The largest sum of the sizes of all files; holes in sparse files count.
        most_members: The largest number of files, directories and links.
        most_parts: The largest number of parts of a name, separated by slashes.
        printable_names: Whether all names have to be printable text.
        dotdot_after_name: Whether the target of a link may have `..` behind a name. The name may
            be another link, so that it is hard to tell where such a target leads.
        keep_permissions: Whether files get the permissions of the archive; if not, a file gets
            0755 if its owner may run it, and 0644 otherwise.
    """

    kinds: tuple[MemberKind, ...] = (
        *BASIC_KINDS,
        MemberKind.CONTIGUOUS_FILE,
        MemberKind.SPARSE_FILE,
        *_LINKS,
    )
    # A kernel's source has 92,000 members and 1.6 GB, its packages with debugging information 6 GB.
    most_bytes: int = 16 << 30
    most_members: int = 1_000_000
    most_parts: int = 200
    printable_names: bool = False
    dotdot_after_name: bool = True
    keep_permissions: bool = True

    @property
    def description(self) -> str:
        """What is allowed, for messages."""
        links = any(kind in self.kinds for kind in _LINKS)
        what = (
            "files, directories, and links that stay inside" if links else "files and directories"
        )
        return f"{what}; at most {self.most_members:,} of them and {_size(self.most_bytes)}"


DEFAULT_RULES = ArchiveRules()


@dataclass(frozen=True, kw_only=True, slots=True)
class UnpackOptions:
    """How an archive is unpacked.

    Attributes:
        what: What the archive is called in errors, such as its path.
        rules: What it may hold.
        strip_components: How many leading parts of each name are left out, as tar(1) does it.
        absolute_links: Whether symbolic links may be absolute, as in a package. They are made
            relative: their `/` is the directory that the archive is unpacked into.
        compressed_bytes: The size of the compressed archive, 0 if it is not compressed.
    """

    what: str
    rules: ArchiveRules = DEFAULT_RULES
    strip_components: int = 0
    absolute_links: bool = False
    compressed_bytes: int = 0


def refuse(options: UnpackOptions, member: Member, seen: str) -> NoReturn:
    """Raise the error about a member.

    Args:
        options: Those of the archive.
        member: What is refused.
        seen: Why.

    Raises:
        BadInput: Always.
    """
    raise BadInput(
        f"{options.what} holds what is not unpacked here",
        Evidence(
            expected=options.rules.description,
            seen=f"{shown(member.name)}: {seen}",
            next_step="do not trust it: whoever made it can say why this is in it",
        ),
    )


def refuse_link(what: str, name: bytes, target: bytes, rules: ArchiveRules) -> NoReturn:
    """Raise the error about a symbolic link that leads out of its tree.

    Args:
        what: What the tree or archive is called.
        name: The path of the link.
        target: Where it leads.
        rules: What is allowed, for the message.

    Raises:
        BadInput: Always.
    """
    raise BadInput(
        f"{what} has a link that leads out of it",
        Evidence(expected=rules.description, seen=f"{shown(name)} -> {shown(target)}"),
    )


def shown(name: bytes) -> str:
    """Return a name for messages: escaped, and shortened if it is long.

    Args:
        name: As the archive has it, in any encoding.
    """
    text = repr(name)[1:]
    return text if len(text) <= 120 else f"{text[:100]}… ({len(name)} bytes)"


def _size(size_bytes: int) -> str:
    in_gib = size_bytes >= 1 << 30
    return f"{size_bytes >> 30} GiB" if in_gib else f"{size_bytes >> 20} MiB"


class ArchiveTotals:
    """Counts the members and bytes of an archive while it is read.

    Attributes:
        stored_bytes: The bytes of all files so far, as stored in the archive.
    """

    def __init__(self, members: TarMembers, options: UnpackOptions) -> None:
        """Start with nothing.

        Args:
            members: The archive; its extended headers count too.
            options: With the limits.
        """
        self._members = members
        self._options = options
        self._rules = options.rules
        largest = max(_RATIO_FREE_BYTES, _MOST_RATIO * options.compressed_bytes)
        self._most_stored = largest if options.compressed_bytes else options.rules.most_bytes
        self._count = self._bytes = self.stored_bytes = 0

    def add(self, member: Member) -> None:
        """Count a member.

        Raises BadInput if members of its kind are not allowed, or a limit is exceeded.
        """
        options, rules = self._options, self._rules
        if member.kind not in rules.kinds:
            refuse(options, member, member.kind.value)
        self._count += 1
        self._bytes += member.size_bytes
        self.stored_bytes += member.stored_bytes
        if self._count > rules.most_members:
            refuse(options, member, f"more than {rules.most_members:,} files and directories")
        if self._bytes + self._members.extended_header_bytes > rules.most_bytes:
            refuse(options, member, f"more than {_size(rules.most_bytes)}")
        if self.stored_bytes > self._most_stored:
            seen = f"{self.stored_bytes:,} bytes so far out of"
            refuse(options, member, f"{seen} {options.compressed_bytes:,} compressed ones")

    def __bool__(self) -> bool:
        return self._count > 0


class MemberNames:
    """Checks the names in an archive, and turns each into a path below the directory."""

    def __init__(self, options: UnpackOptions) -> None:
        """Start with no name.

        Args:
            options: Those of the archive.
        """
        self._options = options
        self._checked_parents: dict[bytes, bytes] = {}

    def path(self, name: bytes, member: Member) -> bytes:
        """Return the path for a name; empty for the directory itself and for what is above it.

        Raises BadInput for a name that is not allowed.

        Args:
            name: As it stands in the archive.
            member: The member that has the name, for errors.
        """
        parent, _slash, last = name.rpartition(b"/")
        known = self._checked_parents.get(parent)
        # In a directory that was checked before, only the last part is new.
        if known is not None and _SIMPLE.fullmatch(last):
            return known + b"/" + last
        fault = next(_name_faults(name, self._options.rules), None)
        if fault:
            refuse(self._options, member, fault)
        kept = _parts(name)[self._options.strip_components :]
        path = b"/".join(part for part in kept if part != b".")
        path_parent = path.rpartition(b"/")[0]
        if path_parent and last:
            self._checked_parents[parent] = path_parent
        return path

    def target(self, member: Member, path: bytes) -> bytes:
        """Return the target that a symbolic link gets.

        Raises BadInput for a target that is not allowed.

        Args:
            member: The link.
            path: Its path, as `path` returns it.
        """
        options, target = self._options, member.target
        if fault := next(_target_faults(target, options.rules), None):
            refuse(options, member, fault)
        if not target.startswith(b"/"):
            return target
        if not options.absolute_links:
            refuse_link(options.what, path, target, options.rules)
        return b"../" * path.count(b"/") + (target.lstrip(b"/") or b".")


def _parts(name: bytes) -> list[bytes]:
    """Return the parts of a name, as tar(1) counts them: a leading `.` is one too."""
    return [part for part in name.split(b"/") if part]


def _name_faults(name: bytes, rules: ArchiveRules) -> Iterator[str]:
    if _CONTROL.search(name):
        yield "a control character in a name"
    if rules.printable_names and not _is_printable(name):
        yield "a name that cannot be shown"
    if name.startswith(b"/"):
        yield "an absolute name"
    if len(name) > _MOST_NAME_BYTES:
        yield f"a name of {len(name)} bytes"
    parts = _parts(name)
    if b".." in parts:
        yield "`..` in a name"
    if len(parts) > rules.most_parts:
        yield f"a name with {len(parts)} parts"
    if max(map(len, parts), default=0) > _MOST_PART_BYTES:
        yield f"a file name of more than {_MOST_PART_BYTES} bytes"


def _target_faults(target: bytes, rules: ArchiveRules) -> Iterator[str]:
    link = f"a symbolic link to {shown(target)}"
    if not target or _CONTROL.search(target) or len(target) > _MOST_NAME_BYTES:
        yield link
    if rules.printable_names and not _is_printable(target):
        yield link
    if not rules.dotdot_after_name and _has_dotdot_after_name(target):
        yield f"{link}, `..` behind a name"


def _is_printable(name: bytes) -> bool:
    try:
        return name.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _has_dotdot_after_name(target: bytes) -> bool:
    parts = target.split(b"/")
    names = [number for number, part in enumerate(parts) if part not in (b"..", b".", b"")]
    return bool(names) and b".." in parts[names[0] :]
