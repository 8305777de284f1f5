"""What a failed test leaves behind: a directory from which its guests can be had again.

It holds, for each guest, what was booted, the snapshot it was restored from, its journal, its
console and, where that was asked for, the state in which the failure left it. Large files are
linked to the store's, so that a bundle takes kilobytes; `export` makes a file for other machines.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch import arch_named
from pytest_kernelvm.config import Machine
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.guest.programs import Abi
from pytest_kernelvm.kernel.store import Store, remove_tree
from pytest_kernelvm.modules.tree import ModuleTree
from pytest_kernelvm.process import find_program, quoted, run
from pytest_kernelvm.vm.deadlines import Limits
from pytest_kernelvm.vm.journal import Act, read_acts
from pytest_kernelvm.vm.pace import pace_of
from pytest_kernelvm.vm.qemu_argv import Boot
from pytest_kernelvm.vm.services import ServiceCatalogue
from pytest_kernelvm.vm.snapshot import (
    MEMORY,
    STATE,
    Snapshot,
    known_digest,
    qemu_version,
    verified,
)
from pytest_kernelvm.vm.vm import Bootable

KIND = "failures"
FORMAT = 1
ABOUT, GUEST, JOURNAL = "bundle.json", "guest.json", "journal.jsonl"
SNAPSHOT, LEFT = "snapshot", "left"
PACKING_TIMEOUT_S = 600.0


def package_version() -> str:
    """Return which version this is of the package."""
    return importlib.metadata.version("pytest-kernelvm")


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptGuest:
    """One guest of a bundle.

    directory: its part of the bundle. about: all that was noted of it.
    """

    directory: Path
    about: dict[str, Any]

    @property
    def label(self) -> str:
        """The guest's, for messages."""
        return str(self.about["label"])

    @property
    def left(self) -> bool:
        """Whether the bundle has the state in which the failure left it."""
        return self.about["left"] is not None

    @property
    def vmlinux(self) -> Path:
        """The kernel with its symbols where it is in the bundle's store; perhaps not there."""
        return Path(self.about["files"]["image"]["path"]).parent / "vmlinux"

    def acts(self) -> Iterator[Act]:
        """Give all that was done with it."""
        with (self.directory / JOURNAL).open() as file:
            yield from read_acts(file)

    def bootable(self, store: Store) -> Bootable:
        """Return what it is made of. store: has, or gets, this machine's pace.

        Raises BadInput if a file is missing or is not the one that was noted.
        """
        about, boot = self.about, self._boot()
        return Bootable(
            label=self.label,
            boot=boot,
            abi=Abi(**about["abi"]),
            limits=Limits(**about["limits"], pace=pace_of(store, boot.arch, boot.machine)),
            by_hand=about["by_hand"],
            # What is done again are system calls; services are the host's words for some of them.
            services=ServiceCatalogue((), ModuleTree(self.directory), {}),
        )

    def _boot(self) -> Boot:
        given = dict(self.about["boot"])
        known = {each.name for each in fields(Boot)}
        if set(given) - known:
            raise BadInput(f"a boot with {', '.join(sorted(set(given) - known))} is not known here")
        given["arch"] = arch_named(given["arch"])
        given["machine"] = Machine(**given["machine"])
        given["extra"] = tuple(given["extra"])
        given.update(self.files())
        return Boot(**given)

    def files(self) -> Iterator[tuple[str, Path]]:
        """Give the names and paths of what QEMU boots; raises as `bootable`."""
        for name, noted in self.about["files"].items():
            yield name, self._file(name, noted)

    def _file(self, name: str, noted: dict[str, str]) -> Path:
        """Return a file that is part of the bundle or that it refers to."""
        path = self.directory / name
        if not path.exists():
            path = Path(noted["path"])
        try:
            found = known_digest(path)
        except OSError as error:
            raise BadInput(
                f"the bundle's {name} is gone",
                Evidence(where=(str(path),), seen=str(error), next_step="export while it is there"),
            ) from None
        if found != noted["sha256"]:
            raise BadInput(
                f"the bundle's {name} is another one by now",
                Evidence(where=(str(path),), expected=noted["sha256"], seen=found),
            )
        return path

    def snapshot(self) -> Snapshot | None:
        """Return what it was restored from; None if it was booted, or if this is another QEMU."""
        about = self.about["snapshot"]
        binary = arch_named(self.about["boot"]["arch"]).qemu_binary
        if about is None or qemu_version(binary) != self.about["qemu"]:
            return None
        directory = self.directory / SNAPSHOT
        try:
            whole = verified(directory, about["sha256"][MEMORY], about["sha256"][STATE])
        except OSError:
            whole = False
        return Snapshot.described(directory, about) if whole else None

    def left_state(self) -> Snapshot:
        """Return the state in which the failure left it.

        Raises BadInput if that was not kept, or with another QEMU.
        """
        about = self.about["left"]
        if about is None:
            raise BadInput(
                f"{self.label} was not kept: {self.about['not_left']}",
                Evidence(
                    where=(str(self.directory),), next_step="`kernelvm replay` makes it do it again"
                ),
            )
        version = qemu_version(arch_named(self.about["boot"]["arch"]).qemu_binary)
        if version != self.about["qemu"]:
            raise BadInput(
                f"{self.label} was kept by another QEMU",
                Evidence(
                    expected=self.about["qemu"], seen=version, next_step="`kernelvm replay` boots"
                ),
            )
        return Snapshot.described(self.directory / LEFT, about)


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """A bundle that was left. about: all that was noted of the failure."""

    directory: Path
    about: dict[str, Any]

    @property
    def name(self) -> str:
        """What the command calls it."""
        return self.directory.name

    @property
    def guests(self) -> tuple[KeptGuest, ...]:
        """The test's guests, in the order of their launch."""
        found = []
        for name in self.about["guests"]:
            directory = self.directory / name
            found.append(
                KeptGuest(directory=directory, about=json.loads((directory / GUEST).read_bytes()))
            )
        return tuple(found)


def bundles(store: Store) -> tuple[Bundle, ...]:
    """Return the bundles in the store, oldest first; what is no whole bundle is left out."""
    found = []
    with contextlib.suppress(OSError):
        for path in sorted((store.root / KIND).iterdir(), key=lambda path: path.stat().st_mtime):
            with contextlib.suppress(BadInput):
                found.append(_read(path))
    return tuple(found)


def remove_bundle(bundle: Bundle) -> None:
    """Remove a bundle, and with it what was kept of its guests."""
    remove_tree(bundle.directory)


@contextlib.contextmanager
def open_bundle(store: Store, named: str) -> Iterator[Bundle]:
    """Give the bundle of a name in the store, of a directory, or of a file made by `export`.

    Raises BadInput if there is none, or if it was made by another version's format.
    """
    path = Path(named)
    if path.is_file():
        with tempfile.TemporaryDirectory(prefix="kernelvm-") as directory:
            _unpack(path, Path(directory))
            yield _read(Path(directory))
        return
    if (path / ABOUT).is_file():
        yield _read(path.absolute())
        return
    yield stored_bundle(store, named)


def stored_bundle(store: Store, name: str) -> Bundle:
    """Return a bundle in the store. Raises BadInput, with near matches, if it is not there."""
    inside = store.root / KIND / name
    if "/" not in name and (inside / ABOUT).is_file():
        return _read(inside)
    near = difflib.get_close_matches(name, [bundle.name for bundle in bundles(store)], n=1)
    raise BadInput(
        f"no bundle is called {name!r}",
        Evidence(
            expected="the name of one in the store, a directory, or what `kernelvm export` made",
            where=(str(store.root / KIND),),
            next_step=f"did you mean {near[0]!r}?" if near else "`kernelvm kept` lists them",
        ),
    )


def _read(directory: Path) -> Bundle:
    try:
        about = json.loads((directory / ABOUT).read_bytes())
        bundle = Bundle(directory=directory, about=about)
        if about["format"] != FORMAT:
            raise BadInput(
                f"{directory} is a bundle of another version",
                Evidence(
                    expected=f"format {FORMAT}, as pytest-kernelvm {package_version()} writes",
                    seen=f"format {about['format']}",
                ),
            )
        assert bundle.guests
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise BadInput(
            f"{directory} is no whole bundle", Evidence(seen=f"{type(error).__name__}: {error}")
        ) from None
    return bundle


def export_bundle(bundle: Bundle, file: Path) -> None:
    """Write a bundle into one file with all that it refers to, for another machine.

    file: its ending says how it is packed: .tar.gz, .tar.zst, .tar.xz or .tar.
    Raises BadInput for another ending or if what it refers to is gone.
    """
    _packer(file)
    with tempfile.TemporaryDirectory(prefix="kernelvm-") as directory:
        whole = Path(directory, bundle.name)
        run(
            ["cp", "--recursive", "--sparse=always", bundle.directory, whole],
            timeout_s=PACKING_TIMEOUT_S,
        )
        for guest in bundle.guests:
            for name, path in guest.files():
                if path.parent != guest.directory:
                    shutil.copyfile(path, whole / guest.directory.name / name)
        packing: list[str | Path] = [
            "tar",
            "--sparse",
            "--create",
            "--auto-compress",
            "--file",
            file.absolute(),
        ]
        run([*packing, "--directory", whole, "."], timeout_s=PACKING_TIMEOUT_S)


def _unpack(file: Path, directory: Path) -> None:
    _packer(file)
    unpacking: list[str | Path] = ["tar", "--extract", "--no-same-owner", "--file", file.absolute()]
    done = run([*unpacking, "--directory", directory], timeout_s=PACKING_TIMEOUT_S, check=False)
    if done.status != 0:
        raise BadInput(
            f"{file} cannot be unpacked",
            Evidence(excerpt=done.stderr, command=quoted(done.argv)),
        )


def _packer(file: Path) -> None:
    """Look whether there is what packs and unpacks a file."""
    packers = {".tar": "tar", ".gz": "gzip", ".zst": "zstd", ".xz": "xz"}
    if ".tar" not in file.suffixes[-2:] or file.suffix not in packers:
        raise BadInput(
            f"{file} does not say how it is packed",
            Evidence(expected="a name that ends in .tar.gz, .tar.zst, .tar.xz or .tar"),
        )
    find_program(packers[file.suffix], f"install {packers[file.suffix]}, or use .tar.gz")
