"""What a failed test leaves behind: a directory from which its guests can be started again.

It holds, for each guest, what was booted, the snapshot it was restored from, its journal, its
console and, where that was asked for, the state in which the failure left it. Large files are
linked to the store's, so that a bundle takes kilobytes; `export` makes a file for other machines.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.failures.bundle_files import unpack_bundle
from pytest_kernelvm.failures.bundle_notes import (
    ABOUT,
    JOURNAL,
    FailureNote,
    GuestNote,
    check_files,
    read_failure,
    read_guest,
)
from pytest_kernelvm.failures.journal_reading import read_journal
from pytest_kernelvm.foreign.json_fields import Malformed
from pytest_kernelvm.modules.tree import ModuleTree
from pytest_kernelvm.process import quoted
from pytest_kernelvm.store.kinds import FAILURES, KERNELS
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.vm.agent.journal import Exchange, JournalEntry
from pytest_kernelvm.vm.agent.services import ServiceCatalogue
from pytest_kernelvm.vm.machine.bootable import Bootable
from pytest_kernelvm.vm.qemu.argv import Boot
from pytest_kernelvm.vm.qemu.snapshot import (
    MEMORY,
    Snapshot,
    has_digests,
    known_digest,
    qemu_version,
)
from pytest_kernelvm.vm.verdict.calibration import calibration_of
from pytest_kernelvm.vm.verdict.deadlines import TimeLimits

SNAPSHOT, SAVED = "snapshot", "left"


def package_version() -> str:
    """Return this package's version."""
    return importlib.metadata.version("pytest-kernelvm")


@dataclass(frozen=True, kw_only=True, slots=True)
class Permissions:
    """What a user lets a bundle do beyond what does no harm; nothing in the bundle can grant it.

    Attributes:
        qmp: Any QMP command.
        outside: A network card with a way to what the host reaches.
        no_sandbox: QEMU without its seccomp filter where the guest had none.
    """

    qmp: bool = False
    outside: bool = False
    no_sandbox: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class BundleGuest:
    """One guest of a bundle.

    Attributes:
        directory: Its part of the bundle.
        note: All that was noted of it.
        replay_command: The command that replays the bundle.
    """

    directory: Path
    note: GuestNote
    replay_command: str

    @property
    def label(self) -> str:
        """The guest's name in messages."""
        return self.note.label

    @property
    def is_saved(self) -> bool:
        """Whether the bundle has the state in which the failure left it."""
        return self.note.saved is not None

    def vmlinux(self, store: Store) -> Path:
        """Return where the store would have the kernel with its symbols.

        Nothing of a bundle's is given to gdb, which runs scripts that lie beside what it loads.
        """
        return store.place(KERNELS) / (self.note.kernel or "unknown") / "vmlinux"

    def entries(self, allowed: Permissions) -> tuple[JournalEntry, ...]:
        """Return all that was done with it, in the order of its journal.

        Args:
            allowed: Whether QMP commands may be in it that can do harm.

        Raises:
            BadInput: The journal is damaged, or wants more than is allowed.
        """
        file = self.directory / JOURNAL
        try:
            entries = read_journal(file, any_command=allowed.qmp)
        except OSError as error:
            raise BadInput(
                "a journal of the bundle cannot be read",
                Evidence(seen=str(error.strerror), where=(str(file),)),
            ) from None
        for entry in entries:
            steps = entry.batch.steps if isinstance(entry, Exchange) else ()
            for step in steps:
                if isinstance(step.call, str) and step.call not in self.note.abi.syscalls:
                    raise BadInput(
                        f"a journal of the bundle has an unknown system call {step.call!r}",
                        Evidence(expected="one of guest.json's abi", where=(str(file),)),
                    )
        return entries

    def bootable(self, store: Store, allowed: Permissions) -> Bootable:
        """Return what it is made of.

        Raises BadInput if a file is missing or is not the one that was noted, or if the guest wants
        more than is allowed.

        Args:
            store: Has, or gets, the calibration of this machine.
            allowed: What the user lets the bundle do.
        """
        boot = self._boot(allowed)
        note = self.note
        calibration = calibration_of(store, boot.arch, boot.machine)
        return Bootable(
            label=note.label,
            boot=boot,
            abi=note.abi,
            limits=TimeLimits(
                boot_s=note.boot_s, command_s=note.command_s, calibration=calibration
            ),
            boot_command=f"{self.replay_command} --shell",
            # A replay makes system calls; services are only the host's names for some of them.
            services=ServiceCatalogue((), ModuleTree(self.directory), {}),
        )

    def _boot(self, allowed: Permissions) -> Boot:
        boot = self.note.boot
        if boot.network == "outside" and not allowed.outside:
            raise BadInput(
                f"{self.label} had a network card with a way to the outside",
                Evidence(
                    where=(str(self.directory),),
                    next_step="--allow=outside, if you made the bundle or trust who did: its guest "
                    "reaches what this machine reaches",
                ),
            )
        for name, digest in self.note.digests.items():
            self._check_file(name, digest)
        sandbox = boot.machine.sandbox or not allowed.no_sandbox
        return replace(boot, machine=replace(boot.machine, sandbox=sandbox))

    def _check_file(self, name: str, digest: str) -> None:
        path = self.directory / name
        try:
            found = known_digest(path)
        except OSError as error:
            raise BadInput(
                f"the bundle's {name} is gone",
                Evidence(where=(str(path),), seen=str(error.strerror)),
            ) from None
        if found != digest:
            raise BadInput(
                f"the bundle's {name} has changed since",
                Evidence(where=(str(path),), expected=digest, seen=found),
            )

    def snapshot(self) -> Snapshot | None:
        """Return what it was restored from; None if it was booted, or if this is another QEMU."""
        about = self.note.snapshot
        if about is None or qemu_version(self.note.boot.arch.qemu_binary) != self.note.qemu:
            return None
        directory = self.directory / SNAPSHOT
        try:
            whole = has_digests(directory, about["sha256"])
            self._check_memory(directory)
        except OSError:
            whole = False
        return Snapshot.from_note(directory, dict(about)) if whole else None

    def _check_memory(self, directory: Path) -> None:
        """Raise BadInput if a memory file is not as large as memory: QEMU would make it so."""
        size = (directory / MEMORY).stat().st_size
        if size != self.note.boot.machine.memory_mib << 20:
            raise BadInput(
                f"the memory of {self.label} has changed since",
                Evidence(
                    expected=f"{self.note.boot.machine.memory_mib} MiB",
                    seen=f"{size} bytes",
                    where=(str(directory / MEMORY),),
                ),
            )

    def saved_state(self) -> Snapshot:
        """Return the state in which the failure left it.

        Raises:
            BadInput: It was not saved, is damaged, or is of another QEMU.
        """
        about = self.note.saved
        if about is None:
            raise BadInput(
                f"{self.label} has no saved state: {self.note.why_not_saved}",
                Evidence(
                    where=(str(self.directory),), next_step="`kernelvm replay` repeats the test"
                ),
            )
        version = qemu_version(self.note.boot.arch.qemu_binary)
        if version != self.note.qemu:
            raise BadInput(
                f"{self.label} was saved by another QEMU",
                Evidence(
                    expected=self.note.qemu,
                    seen=version,
                    next_step="`kernelvm replay` boots the guest anew",
                ),
            )
        directory = self.directory / SAVED
        if (directory / MEMORY).exists():
            self._check_memory(directory)
        return Snapshot.from_note(directory, dict(about))


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A bundle, with all that it says checked.

    Attributes:
        directory: Where it is.
        named: How the user names it on a command line.
        note: What was noted of the failure.
        guests: In the order of their launch.
    """

    directory: Path
    named: str
    note: FailureNote
    guests: tuple[BundleGuest, ...]

    @property
    def name(self) -> str:
        """The name of its directory."""
        return self.directory.name


def bundles(store: Store) -> tuple[Bundle, ...]:
    """Return the bundles in the store, oldest first; damaged ones are left out."""
    found = []
    with contextlib.suppress(OSError):
        for path in sorted(store.place(FAILURES).iterdir(), key=lambda path: path.lstat().st_mtime):
            with contextlib.suppress(BadInput):
                found.append(read_bundle(path))
    return tuple(found)


def remove_bundle(store: Store, name: str) -> None:
    """Remove a bundle of the store and what it has of its guests; a damaged one can be removed.

    Raises BadInput if it is not there.

    Args:
        store: Where the bundle is.
        name: The name of its directory, as `kernelvm kept` lists it.
    """
    store.discard(FAILURES, name, _stored(store, name))


@contextlib.contextmanager
def open_bundle(store: Store, named: str) -> Iterator[Bundle]:
    """Give the bundle of a name in the store, of a directory, or of a file made by `export`.

    Raises BadInput if there is none, or if it was made by another version's format.

    Args:
        store: Where names are looked up.
        named: The name, the directory or the file.

    Yields:
        The bundle; what was unpacked is gone when the context ends.
    """
    path = Path(named)
    if path.is_file():
        with tempfile.TemporaryDirectory(prefix="kernelvm-") as directory:
            unpack_bundle(path, Path(directory))
            yield read_bundle(Path(directory), named)
        return
    if (path / ABOUT).is_file():
        yield read_bundle(path.resolve(), named)
        return
    stored = _stored(store, named)
    store.note_use(FAILURES, stored.name, stored)
    yield read_bundle(stored)


def _stored(store: Store, name: str) -> Path:
    """Return the directory of a bundle in the store.

    Raises:
        BadInput: It is not there; with near matches.
    """
    kind = store.place(FAILURES)
    known = []
    with contextlib.suppress(OSError):
        known = [path.name for path in kind.iterdir() if stat.S_ISDIR(path.lstat().st_mode)]
    if name in known:
        return kind / name
    near = difflib.get_close_matches(name, known, n=1)
    raise BadInput(
        f"no bundle is called {name!a}",
        Evidence(
            expected="the name of one in the store, a directory, or what `kernelvm export` made",
            where=(str(kind),),
            next_step=f"did you mean {near[0]!r}?" if near else "`kernelvm kept` lists them",
        ),
    )


def read_bundle(directory: Path, named: str = "") -> Bundle:
    """Return the bundle in a directory.

    Args:
        directory: Where it is.
        named: How the user names it; empty for the directory's name.

    Raises:
        BadInput: It is no complete bundle.
    """
    named = named or directory.name
    replay_command = quoted(["kernelvm", "replay", named])
    try:
        if not stat.S_ISDIR(directory.lstat().st_mode):
            raise BadInput(f"{directory} is no bundle", Evidence(expected="a directory"))
        check_files(directory)
        note = read_failure(directory)
        guests = tuple(
            BundleGuest(
                directory=directory / name,
                note=read_guest(directory / name),
                replay_command=replay_command,
            )
            for name in note.guests
        )
    except Malformed as error:
        raise BadInput(
            f"{directory} is not a complete bundle: {error.summary}", error.evidence
        ) from None
    except OSError as error:
        raise BadInput(
            f"{directory} is not a complete bundle", Evidence(seen=str(error.strerror))
        ) from None
    return Bundle(directory=directory, named=named, note=note, guests=guests)
