"""Archives of a remote store: unpacked, and checked before anything of them is in a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.foreign.archive_rules import BASIC_KINDS, ArchiveRules, UnpackOptions
from pytest_kernelvm.foreign.json_fields import Malformed
from pytest_kernelvm.foreign.tar_members import MemberKind
from pytest_kernelvm.foreign.unpacking import unpack_gzip
from pytest_kernelvm.store.digest import Digest
from pytest_kernelvm.store.kernel_metadata import printable_metadata, read_kernel_metadata
from pytest_kernelvm.store.kinds import KERNELS, Kind
from pytest_kernelvm.store.metadata import ENTRY, damage_of, read_metadata
from pytest_kernelvm.store.store import StagingDirectory

# An entry holds what remote.py packs: files and links without anything unusual about them.
RULES = ArchiveRules(
    kinds=(*BASIC_KINDS, MemberKind.SYMLINK),
    most_members=500_000,
    most_parts=40,
    printable_names=True,
    dotdot_after_name=False,
    keep_permissions=False,
)
# How many characters of an error are shown: a hostile server may have written it.
MOST_SHOWN = 200


def unpack_entry(archive: Path, directory: Path, rules: ArchiveRules = RULES) -> None:
    """Unpack a .tar.gz of an entry into a directory that is empty.

    Raises OSError if the disk is full.

    Args:
        archive: The archive, of a remote store.
        directory: Where to unpack.
        rules: What the archive may hold.

    Raises:
        Malformed: It is no such archive, or holds more than the rules allow.
    """
    options = UnpackOptions(
        what="the archive", rules=rules, compressed_bytes=archive.stat().st_size
    )
    try:
        unpack_gzip(archive, directory, options)
    except BadInput as error:
        why = error.evidence.seen or error.evidence.excerpt
        raise Malformed(f"{error.summary}: {why}"[:MOST_SHOWN]) from None


def entry_of(
    directory: Path, about: dict[str, Any]
) -> Callable[[StagingDirectory], dict[str, Any]]:
    """Return what makes an entry of a directory.

    Args:
        directory: What becomes the entry's; it is moved.
        about: What is recorded about it.

    Returns:
        A function for `Store.obtain`.
    """

    def make(work: StagingDirectory) -> dict[str, Any]:
        work.entry.rmdir()
        directory.rename(work.entry)
        return about

    return make


def checked_entry(entry: Path, kind: Kind, digest: Digest) -> dict[str, Any]:
    """Return what an entry of a remote store says about itself, once all in it is checked.

    Its entry.json is removed, as the store writes its own.

    Args:
        entry: The unpacked archive.
        kind: What was requested.
        digest: Which one was requested.

    Raises:
        Malformed: Something in it is not what it says.
    """
    try:
        metadata = read_metadata(entry, kind)
    except Malformed as error:
        raise Malformed(f"{kind}/{digest[:16]}/{ENTRY}: {error.reason}") from None
    about = printable_metadata(metadata.about)
    if kind == KERNELS:
        image = read_kernel_metadata(about, digest).image
        if not metadata.sized or image not in metadata.sizes:
            raise Malformed(f"{kind}/{digest[:16]} has no {image}")
    faults = damage_of(entry, metadata)
    if faults:
        raise Malformed(f"{kind}/{digest[:16]}: {faults[0]}")
    (entry / ENTRY).unlink()
    return about
