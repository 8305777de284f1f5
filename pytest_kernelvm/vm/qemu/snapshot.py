"""Booted guests kept in the store, so that the next one is restored instead of booted.

A snapshot is the guest's memory in a file that restored guests map privately, and a migration
stream with the state of the machine's devices, which leaves that memory out (QEMU's capability
x-ignore-shared): restoring copies nothing.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.json_fields import Malformed
from pytest_kernelvm.process import find_program, run
from pytest_kernelvm.store.digest import (
    Digest,
    digest_of,
    filled_pieces,
    known_digests,
)
from pytest_kernelvm.store.digest import known_digest as known_digest
from pytest_kernelvm.store.gc import evict
from pytest_kernelvm.store.intact import require_intact
from pytest_kernelvm.store.kinds import SNAPSHOTS
from pytest_kernelvm.store.metadata import ENTRY, OTHER_BYTES, EntryMetadata, read_metadata
from pytest_kernelvm.store.store import StagingDirectory, Store
from pytest_kernelvm.vm.qemu.argv import STAGE, Backends, Boot, qemu_argv

# Part of every digest. It changes when the files change, or what is done with a guest before it is
# stopped.
FORMAT = 7

FILES = MEMORY, STATE, CONSOLE, LOG = "memory", "state", "console", "log"
_PAGE_BYTES = 4096


class SnapshotUnusable(Exception):
    """A snapshot that was found and cannot be restored; the text says why."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """A guest as it was when its agent first answered.

    Attributes:
        directory: Its entry in the store, or in a bundle.
        request_id: The last one that its agent has seen.
        boot_id: The number in its agent's hello.
        clock_offset_s: By how many seconds its clock was ahead of the host's.
        taint: /proc/sys/kernel/tainted.
        console_ages_s: Of each piece of the console's text: how many seconds before the snapshot it
            came, and its offset.
    """

    directory: Path
    request_id: int
    boot_id: int
    clock_offset_s: float
    taint: int
    console_ages_s: tuple[tuple[float, int], ...]

    @classmethod
    def from_note(cls, directory: Path, about: dict[str, Any]) -> Snapshot:
        """Return the snapshot in a directory.

        Args:
            directory: Where its files are.
            about: What was noted of it; NOTED_FIELDS are its keys.
        """
        return cls(
            directory=directory,
            request_id=about["request_id"],
            boot_id=about["boot_id"],
            clock_offset_s=about["clock_offset_s"],
            taint=about["taint"],
            console_ages_s=tuple((age_s, offset) for age_s, offset in about["console_ages_s"]),
        )

    @property
    def memory(self) -> Path:
        """The guest's memory, with holes for pages that are zero."""
        return self.directory / MEMORY

    @property
    def state(self) -> Path:
        """The migration stream of the devices."""
        return self.directory / STATE

    @property
    def console(self) -> bytes:
        """What the console had printed."""
        return (self.directory / CONSOLE).read_bytes()

    @property
    def log(self) -> bytes:
        """What was read of its kernel's log, as /dev/kmsg gives it."""
        return (self.directory / LOG).read_bytes()


# What is noted of a snapshot beside its files.
NOTED_FIELDS = tuple(each.name for each in fields(Snapshot) if each.name != "directory")


def snapshot_digest(boot: Boot) -> Digest:
    """Return what names the snapshot of a boot: all that QEMU is given, and which QEMU.

    Raises DamagedStore if any of what is booted is damaged.
    """
    require_intact_boot(boot)
    files = {
        each.name: path
        for each in fields(Boot)
        if isinstance(path := getattr(boot, each.name), Path)
    }
    named: dict[str, Any] = {name: Path(name) for name in files}
    names = replace(boot, **named)
    return digest_of(
        {
            "format": FORMAT,
            "initramfs": "",
            **{name: known_digest(path) for name, path in files.items()},
            "argv": qemu_argv(names, Backends(console="null", channel="null")),
            "shared_console": boot.shared_console,
            "qemu": qemu_version(boot.arch.qemu_binary),
        }
    )


def require_intact_boot(boot: Boot) -> None:
    """Compare what QEMU is to load with what the store noted of it; raises DamagedStore."""
    files = [path for each in fields(Boot) if isinstance(path := getattr(boot, each.name), Path)]
    # The first stage of a kernel lies beside it, and no field of its own names it.
    beside = [path.parent / STAGE for path in files if (path.parent / STAGE).is_file()]
    require_intact((*files, *beside))


def qemu_version(binary: str) -> str:
    """Return the first line of `--version`; raises ToolMissing if this QEMU is not installed.

    Args:
        binary: Its name in PATH, such as qemu-system-mipsel.
    """
    path = find_program(binary)
    return _version_of(path, Path(path).stat().st_mtime_ns)


@functools.cache
def _version_of(path: str, _mtime_ns: int) -> str:
    return run([path, "--version"], timeout_s=60).stdout.splitlines()[0]


def find_snapshot(store: Store, boot: Boot) -> Snapshot | None:
    """Return the snapshot of a boot if the store has it, whole and with the bytes it was made of.

    One that is damaged is reported and removed. Raises DamagedStore if what is booted is damaged,
    BadInput if QEMU cannot open the snapshot's memory.

    Args:
        store: Where it is looked for.
        boot: What it was made of.

    Returns:
        The snapshot, None if there is none.
    """
    digest = snapshot_digest(boot)
    path = store.find(SNAPSHOTS, digest)
    if path is None:
        return None
    _require_writable(path)
    try:
        note = read_metadata(path)
        fault = _fault(path, note)
        if not fault:
            return Snapshot.from_note(path, dict(note.about))
    except FileNotFoundError:
        # Removed or being replaced by somebody else.
        return None
    except Malformed as error:
        fault = f"{ENTRY}: {error.reason}"
    except (KeyError, TypeError, ValueError) as error:
        fault = f"{ENTRY}: {error}"
    store.progress.say(f"the snapshot {digest[:16]} is damaged ({fault}): it is made anew")
    store.discard(SNAPSHOTS, digest)
    return None


def _require_writable(path: Path) -> None:
    """Refuse a store in which QEMU can't open a snapshot's memory: 7.2 does so for writing.

    What a guest writes is not written to the file all the same.

    Raises:
        BadInput: The file cannot be written to.
    """
    if (path / MEMORY).exists() and not os.access(path / MEMORY, os.W_OK):
        raise BadInput(
            "guests cannot be restored from a store that is not writable",
            Evidence(
                seen=f"{path / MEMORY} cannot be opened for writing, as QEMU does",
                where=(str(path.parent.parent),),
                next_step="make it and all below it writable for you, name another directory with "
                "KERNELVM_STORE, or have each guest booted with --kernelvm-fresh=boot",
            ),
        )


def _fault(path: Path, note: EntryMetadata) -> str:
    """Return which file of a snapshot has not its digest; all are read once in a process."""
    digests = known_digests([path / name for name in note.sha256], sparse=True)
    for name, digest in note.sha256.items():
        if digests[path / name] != digest:
            return f"{name}: {OTHER_BYTES}"
    return "" if {*FILES} <= note.sha256.keys() else "not all its files are noted"


def has_digests(path: Path, digests: Mapping[str, str]) -> bool:
    """Return whether a snapshot's files still have their digests, which leave out holes.

    Args:
        path: The directory with the files.
        digests: The sha256 of each file of FILES.
    """
    found = known_digests([path / name for name in FILES], sparse=True)
    return all(found[path / name] == digests[name] for name in FILES)


def make_snapshot(
    store: Store, boot: Boot, record: Callable[[StagingDirectory], dict[str, Any]], *, label: str
) -> Snapshot:
    """Return the snapshot of a boot, made unless the store has it by now.

    Raises what `record` raises, and HarnessError if the store cannot take it.

    Args:
        store: Where it is kept.
        boot: What it is made of.
        record: Boots the guest with its memory in a file of the work directory, fills the entry,
            and returns what is noted of it.
        label: The guest in words, for those who wait.

    Raises:
        SnapshotUnusable: It was removed as soon as it was made.
    """

    def make(work: StagingDirectory) -> dict[str, Any]:
        reserve(work.directory / MEMORY, boot.machine.memory_mib << 20)
        about = record(work)
        return {**about, "first_cell": label, "kernel": boot.image.parent.name}

    digest = snapshot_digest(boot)
    store.obtain(SNAPSHOTS, digest, make, label=label)
    evict(store, SNAPSHOTS, spared=(digest,))
    found = find_snapshot(store, boot)
    if found is None:
        raise SnapshotUnusable("it was removed as soon as it was made")
    return found


def forget_snapshot(store: Store, snapshot: Snapshot) -> None:
    """Remove a snapshot that could not be restored; raises BadInput if the store refuses that."""
    store.discard(SNAPSHOTS, Digest(snapshot.directory.name))


def reserve(path: Path, size_bytes: int) -> None:
    """Make a file that has all its blocks: a guest that writes to a hole of a full disk is killed.

    Raises OSError if the disk has no room for it.

    Args:
        path: The file.
        size_bytes: How large it becomes.
    """
    with path.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, size_bytes)


def write_sparse(source: Path, copy: Path) -> None:
    """Copy a file, leaving holes where pages of 4,096 bytes are zero.

    Args:
        source: What is copied.
        copy: The new file.
    """
    with source.open("rb", buffering=0) as file, copy.open("wb", buffering=0) as sink:
        for offset, page in filled_pieces(file, _PAGE_BYTES):
            os.pwrite(sink.fileno(), page, offset)
        sink.truncate(source.stat().st_size)
        os.fsync(sink.fileno())
