"""Writing the bundle of a test that failed."""

from __future__ import annotations

import contextlib
import datetime
import json
import platform
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from pytest_kernelvm.errors import KernelvmError
from pytest_kernelvm.failures.bundle import (
    SAVED,
    SNAPSHOT,
    Bundle,
    package_version,
    read_bundle,
)
from pytest_kernelvm.failures.bundle_notes import ABOUT, FORMAT, GUEST, JOURNAL, LOADED
from pytest_kernelvm.failures.saved_state import save_guest
from pytest_kernelvm.foreign.json_fields import SHA256, Malformed
from pytest_kernelvm.process import quoted
from pytest_kernelvm.store.gc import evict
from pytest_kernelvm.store.kinds import FAILURES, KERNELS, TEMPORARY
from pytest_kernelvm.store.metadata import read_metadata
from pytest_kernelvm.store.staging import UNFINISHED_BUNDLE
from pytest_kernelvm.store.store import Store, default_store
from pytest_kernelvm.store.writing import remove_tree, write_whole
from pytest_kernelvm.vm.machine.recording import clocked_lines
from pytest_kernelvm.vm.machine.vm import Vm
from pytest_kernelvm.vm.qemu.argv import Boot
from pytest_kernelvm.vm.qemu.snapshot import (
    FILES,
    NOTED_FIELDS,
    Snapshot,
    known_digest,
    qemu_version,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """Why a bundle is written.

    Attributes:
        test: The test's id.
        verdict: The verdict's label.
        error: The error in words.
    """

    test: str
    verdict: str
    error: str


class BundleWriter:
    """Writes the bundle of one test, if it fails.

    Args:
        store: Where the bundle is written.
        saves_states: Whether the states are saved in which the failure leaves the guests.

    Attributes:
        saves_states: As above.
        bundle: The bundle, None as long as none was written.
    """

    def __init__(self, store: Store, *, saves_states: bool) -> None:
        self._store = store
        self.saves_states = saves_states
        self._states: dict[int, Path] = {}
        self._kept: dict[int, dict[str, Any] | str] = {}
        self.bundle: Bundle | None = None

    def prepare_for_failure(self, vm: Vm) -> None:
        """Prepare a guest that was just launched for saving, should it panic or never get ready."""
        if self.saves_states:
            vm.control.readiness.on_failure = lambda: self.save_state(vm)
            vm.control.hold_panicked()

    def discard(self) -> None:
        """Remove saved states that no bundle has, at the end of the test."""
        for number, directory in self._states.items():
            remove_tree(directory)
            self._kept[number] = "its test was over"
        self._states.clear()

    def save_state(self, vm: Vm) -> None:
        """Save the state of a guest, if that is wanted and possible; it goes on afterwards."""
        if not self.saves_states or id(vm) in self._kept:
            return
        try:
            directory = self._new_directory()
            self._states[id(vm)] = directory
            self._kept[id(vm)] = save_guest(vm, directory)
        except (OSError, KernelvmError) as error:
            summary = error.summary if isinstance(error, KernelvmError) else str(error)
            self._kept[id(vm)] = summary

    def command(self, verb: str) -> str:
        """Return the command line of a verb of `kernelvm` for the bundle.

        Args:
            verb: Such as `replay`.
        """
        assert self.bundle
        where: list[str | Path] = (
            [] if self._store.root == default_store() else ["--store", self._store.root]
        )
        return quoted(["kernelvm", *where, verb, self.bundle.name])

    def write(self, failure: Failure, guests: Sequence[Vm]) -> Bundle | None:
        """Write the bundle of a failure; a second failure of the test gets none of its own.

        Raises OSError if the store cannot take it.

        Args:
            failure: Why.
            guests: The test's, in the order of their launch.

        Returns:
            The bundle, None if no guest was launched.
        """
        if self.bundle or not guests:
            return self.bundle
        for vm in guests:
            self.save_state(vm)
        kind = self._store.place(FAILURES)
        kind.mkdir(parents=True, exist_ok=True)
        self._store.clear_abandoned()
        # Another bundle is worth more than room for it: what cannot be removed stays.
        with contextlib.suppress(KernelvmError):
            evict(self._store, FAILURES, room=1)
        name = f"{guests[0].label}-{secrets.token_hex(3)}"
        directory = self._new_directory()
        try:
            self._write(directory, failure, guests)
            directory.chmod(0o755)
            directory.rename(kind / name)
        finally:
            remove_tree(directory)
            self.discard()
        self.bundle = read_bundle(kind / name)
        return self.bundle

    def _new_directory(self) -> Path:
        waiting = self._store.place(TEMPORARY)
        waiting.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=UNFINISHED_BUNDLE, dir=waiting))

    def _write(self, directory: Path, failure: Failure, guests: Sequence[Vm]) -> None:
        first = min(vm.control.started for vm in guests)
        for number, vm in enumerate(guests):
            below = directory / f"guest-{number}"
            below.mkdir()
            kept = self._kept.get(id(vm), "this run keeps no guests")
            if not isinstance(kept, str):
                self._states[id(vm)].rename(below / SAVED)
            _write_guest(below, vm, first, kept, _kernel_of(self._store, vm.boot.image))
        about = {
            "format": FORMAT,
            **asdict(failure),
            "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "versions": {
                "pytest-kernelvm": package_version(),
                "python": platform.python_version(),
                "host": platform.platform(),
            },
            "guests": [f"guest-{number}" for number in range(len(guests))],
        }
        write_whole(directory / ABOUT, json.dumps(about, indent=1).encode())


def _kernel_of(store: Store, image: Path) -> str:
    """Return the digest of the entry that an image is of; empty if it was made otherwise."""
    entry = image.parent
    inside = entry.parent == store.place(KERNELS) and re.fullmatch(SHA256, entry.name)
    return entry.name if inside else ""


def _write_guest(
    directory: Path, vm: Vm, first_launch: float, kept: dict[str, Any] | str, kernel: str
) -> None:
    limits = vm.control.bootable.limits
    about = {
        "label": vm.label,
        "boot": _noted_boot(vm.boot),
        "files": {name: _take(path, directory / name) for name, path in _files_of(vm.boot)},
        "abi": asdict(vm.abi),
        "limits": {"boot_s": limits.boot_s, "command_s": limits.command_s},
        "by_hand": vm.control.boot_command,
        "qemu": qemu_version(vm.boot.arch.qemu_binary),
        "argv": vm.control.quoted_argv,
        "kernel": kernel,
        "started_s": vm.control.started - first_launch,
        "ready_s": vm.ready_s,
        "snapshot": _take_snapshot(vm.snapshot, directory) if vm.snapshot else None,
        "left": None if isinstance(kept, str) else kept,
        "not_left": kept if isinstance(kept, str) else "",
    }
    with (directory / JOURNAL).open("w") as file:
        file.writelines(vm.control.journal.lines(first_launch))
    for log in (*vm.control.logs, vm.network.capture):
        with contextlib.suppress(OSError):
            shutil.copyfile(log, directory / log.name)
    with (directory / "console.txt").open("w") as file:
        file.writelines(clocked_lines(vm.console, vm.control.started))
    write_whole(directory / GUEST, json.dumps(about).encode())


def _files_of(boot: Boot) -> Iterator[tuple[str, Path]]:
    """Give what QEMU is given as files, each with its name in the bundle."""
    for each in fields(Boot):
        value = getattr(boot, each.name)
        if isinstance(value, Path):
            yield each.name, value
    for number, placed in enumerate(boot.loaded):
        yield f"{LOADED}-{number}", placed.file


def _noted_boot(boot: Boot) -> dict[str, Any]:
    """Return what is noted of a boot besides its files; flags for QEMU are left out."""
    return {
        "arch": boot.arch.name,
        "machine": asdict(boot.machine),
        "cmdline": boot.cmdline,
        "fixed_initramfs": boot.fixed_initramfs,
        "shared_console": boot.shared_console,
        "network": boot.network,
        "loaded": [placed.address for placed in boot.loaded],
        "root_address": boot.root_address,
        "root_words": boot.root_words,
    }


def _take(source: Path, place: Path) -> str:
    """Link a file into the bundle, or copy it where that cannot be; return its digest."""
    try:
        place.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, place)
    return known_digest(place)


def _take_snapshot(snapshot: Snapshot, directory: Path) -> dict[str, Any] | None:
    """Link a snapshot into the bundle; a replay does without it where that cannot be."""
    try:
        note = read_metadata(snapshot.directory)
        (directory / SNAPSHOT).mkdir()
        for name in FILES:
            (directory / SNAPSHOT / name).hardlink_to(snapshot.directory / name)
        digests = {name: note.sha256[name] for name in FILES}
        return {**{name: note.about[name] for name in NOTED_FIELDS}, "sha256": digests}
    except (OSError, Malformed, KeyError):
        remove_tree(directory / SNAPSHOT)
        return None
