"""Metadata of a kernel in a store, as values that were checked; that of a remote store as well."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.errors import BadInput
from pytest_kernelvm.foreign.json_fields import (
    Fields,
    Malformed,
    file_name,
    parse_json,
    printable_text,
)
from pytest_kernelvm.store.digest import Digest, NotADigest, digest_of
from pytest_kernelvm.store.kinds import KERNELS
from pytest_kernelvm.store.store import Store

_RELEASE = r"[0-9A-Za-z][0-9A-Za-z._+~-]{0,63}"
# Of the record of a request, which may come from a remote store.
MOST_REQUEST_BYTES = 64 << 10
_DEPTH, _MOST_VALUES = 6, 20_000
# Values of fields that earlier versions did not write.
_DEFAULTS = {"llvm": "", "outputs": {}, "release_parts": [], "shared_console": False}


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelMetadata:
    """What entry.json says about a kernel in a store.

    Attributes:
        digest: Names the kernel.
        release: What `uname -r` says.
        version: Of its source, such as 6.12.30.
        arch: Its architecture.
        image: Name of the file in the entry that is booted.
        patches: Names of the patches in it.
        headers_digest: Names the headers that programs for it are compiled with.
        release_parts: Pieces of the release, each with the place that it comes from.
        shared_console: Whether it has no port for the agent alone.
        llvm: What make was given as LLVM=, empty for gcc.
        headers_of: Release of the kernel whose headers it has; another one's if it came without.
    """

    digest: Digest
    release: str
    version: str
    arch: Arch
    image: str
    patches: tuple[str, ...]
    headers_digest: Digest
    release_parts: tuple[tuple[str, str], ...]
    shared_console: bool
    llvm: str
    headers_of: str


def read_kernel_metadata(about: Mapping[str, Any], digest: Digest) -> KernelMetadata:
    """Return the metadata of a kernel.

    Raises Malformed if a field is missing, of another type, or no name of what it has to name.

    Args:
        about: What the kernel's maker has recorded; it may be somebody else's.
        digest: Names the kernel.

    Returns:
        The metadata, checked.
    """
    given = Fields(dict(about), defaults=_DEFAULTS)
    release = given.text("release", pattern=_RELEASE, shape="a release of a kernel", most=64)
    version, headers_of = (
        given.printable(name, most=64) if given.has(name) else release
        for name in ("version", "headers_of")
    )
    return KernelMetadata(
        digest=digest,
        release=release,
        version=version,
        arch=ARCHES[given.choice("arch", ARCHES)],
        image=file_name(given.take("image")),
        patches=tuple(
            printable_text(each, "a patch", most=255)
            for each in given.items("patches", _MOST_VALUES)
        ),
        headers_digest=_headers_digest(given.fields("outputs"), digest),
        release_parts=tuple(_part(each) for each in given.items("release_parts", _MOST_VALUES)),
        shared_console=given.flag("shared_console"),
        llvm=given.printable("llvm", most=64),
        headers_of=headers_of,
    )


def stored_kernel(store: Store, digest: Digest) -> tuple[Path, KernelMetadata] | None:
    """Return a kernel's entry and its metadata; None if the store does not have it.

    A kernel with wrong metadata is removed, as its image may be whole and would be used.

    Raises BadInput if the metadata are wrong, and the store is not writable.

    Args:
        store: Where to look.
        digest: Names the kernel.

    Returns:
        The entry's directory, and what its metadata say.
    """
    entry = store.find(KERNELS, digest)
    if entry is None:
        return None
    try:
        metadata = read_kernel_metadata(store.describe(entry), digest)
        fault = "" if (entry / metadata.image).is_file() else f"it has no {metadata.image}"
    except Malformed as error:
        fault = error.reason
    except FileNotFoundError:
        return None
    if not fault:
        return entry, metadata
    store.progress.say(f"the metadata of kernels/{digest[:16]} are wrong ({fault}): removed")
    store.discard(KERNELS, digest)
    return None


def stored_metadata(store: Store, name: str) -> KernelMetadata | None:
    """Return the metadata of a kernel by its directory's name; None if it is no whole one.

    Args:
        store: Where the kernel is.
        name: The kernel's digest.
    """
    try:
        found = stored_kernel(store, Digest(name))
    except BadInput:
        return None
    return found[1] if found else None


def requested_kernel(record: Path) -> Digest | None:
    """Return the kernel that the record of a request names.

    Args:
        record: The file in `requests`.

    Returns:
        The kernel's digest; None if the record is not there or damaged, as the request is answered
        anew then.
    """
    try:
        return Digest(
            Fields(parse_json(record.read_bytes(), most_bytes=MOST_REQUEST_BYTES)).take("kernel")
        )
    except (OSError, Malformed, NotADigest):
        return None


def _part(value: object) -> tuple[str, str]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise Malformed("a part of its release is no pair")
    part, who = (printable_text(each, "a part of its release") for each in value)
    return part, who


def _headers_digest(outputs: Fields, digest: Digest) -> Digest:
    digests = []
    for name in ("headers", "nolibc"):
        noted = outputs.mapping(name) if outputs.has(name) else {}
        try:
            digests.append(Digest(noted.get("sha256", digest)))
        except NotADigest:
            raise Malformed(f"the digest of its {name} is none") from None
    return digest_of(digests)


def printable_metadata(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return metadata of somebody else, whose texts can be shown.

    Raises Malformed if a text has control characters, or the metadata are too deep or too large.

    Args:
        about: What the other store has sent.

    Returns:
        A copy.
    """
    count = [0]
    _check_printable(about, _DEPTH, count)
    return dict(about)


def _check_printable(value: object, depth: int, count: list[int]) -> None:
    count[0] += 1
    if depth == 0 or count[0] > _MOST_VALUES:
        raise Malformed("what is noted about it is too deep or too large")
    if isinstance(value, str):
        printable_text(value, "a text", most=10_000)
    elif isinstance(value, Mapping):
        for name, each in value.items():
            printable_text(name, "a name")
            _check_printable(each, depth - 1, count)
    elif isinstance(value, list | tuple):
        for each in value:
            _check_printable(each, depth - 1, count)
