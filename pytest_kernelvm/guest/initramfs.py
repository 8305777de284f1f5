"""The initramfs: agent, modprobe, the closure's modules with their metadata, and nothing else."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.config.model import ModprobeConfig
from pytest_kernelvm.config.roots import Root
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.files import read_regular
from pytest_kernelvm.guest import cpio
from pytest_kernelvm.guest.programs import GuestPrograms
from pytest_kernelvm.guest.userland import Userland, entries_of
from pytest_kernelvm.modules.closure import Closure
from pytest_kernelvm.modules.firmware import FirmwareFile
from pytest_kernelvm.modules.pruned import pruned_metadata
from pytest_kernelvm.modules.tree import ModuleTree
from pytest_kernelvm.modules.unpack import MOST_BYTES
from pytest_kernelvm.store.digest import digest_of_bytes, known_digest
from pytest_kernelvm.store.kinds import INITRAMFS
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.store.writing import write_whole

MODPROBE_CONF = "etc/modprobe.d/kernelvm.conf"
MODPROBE_NAMES = ("insmod", "lsmod", "rmmod")
# Where our modprobe is; beside a userland's it is called by its path.
SBIN, SBIN_BESIDE_USERLAND = "sbin", "kernelvm"


@dataclass(frozen=True, kw_only=True, slots=True)
class Initramfs:
    """An archive as it is handed to QEMU.

    Attributes:
        path: Its file in the store.
        size_bytes: The size of that file.
        paths: All that is in it, directories included.
    """

    path: Path
    size_bytes: int
    paths: tuple[str, ...]


def guest_entries(
    programs: GuestPrograms,
    *,
    tree: ModuleTree,
    closure: Closure,
    modprobe: ModprobeConfig,
    files: Mapping[str, bytes],
    userland: Userland | None = None,
) -> list[cpio.Entry]:
    """Return what a guest has at hand: the agent as init, and the modules of a closure.

    Args:
        programs: Agent and modprobe.
        tree: The module tree of the closure.
        closure: The modules and their firmware.
        modprobe: Options and blacklist.
        files: Further files by absolute path; they are executable if they begin as programs do.
        userland: Programs whose modprobe is the guest's instead of ours, which then is in
            /kernelvm; None for none.
    """
    entries = [cpio.file("init", programs.agent.read_bytes(), 0o755)]
    if closure.modules:
        sbin = SBIN_BESIDE_USERLAND if userland else SBIN
        entries += _modules(programs, sbin, tree, closure, modprobe)
    if userland:
        entries += entries_of(userland, tree, closure)
    return entries + [_extra(path, content) for path, content in files.items()]


def preinit_entries(
    programs: GuestPrograms,
    *,
    tree: ModuleTree,
    closure: Closure,
    modprobe: ModprobeConfig,
    root: Root,
) -> list[cpio.Entry]:
    """Return what leads into another root: preinit as init, and the modules of a closure.

    Args:
        programs: Preinit and modprobe.
        tree: The module tree of the closure.
        closure: The modules that the root needs.
        modprobe: Options and blacklist.
        root: What the vm-config says of the root.
    """
    entries = [
        cpio.file("init", programs.preinit.read_bytes(), 0o755),
        cpio.file("etc/store", f"{root.store}\n".encode()),
    ]
    if closure.modules:
        entries += _modules(programs, SBIN, tree, closure, modprobe)
        names = "".join(f"{name}\n" for name in root.modules)
        entries.append(cpio.file("etc/modules", names.encode()))
    return entries


def pack(store: Store, entries: Iterable[cpio.Entry], *, compressed: bool) -> Initramfs:
    """Return the initramfs of some entries.

    Raises BadInput if the store is not writable, HarnessError if its disk is full.

    Args:
        store: Where it is kept.
        entries: What is in it; parents are added.
        compressed: Whether it is compressed. An archive of the agent alone costs nothing to
            inflate; one with modules is better stored plain, as inflating takes the guest longer
            than QEMU takes to read it.
    """
    complete = cpio.with_parents(entries)
    archive = cpio.archive(complete)
    data = gzip.compress(archive, 9, mtime=0) if compressed else archive
    digest = digest_of_bytes(data)
    path = store.place(INITRAMFS) / (digest + (".cpio.gz" if compressed else ".cpio"))
    store.note_use(INITRAMFS, digest, path)
    if not (path.is_file() and known_digest(path) == digest):
        with store.disk_errors():
            write_whole(path, data)
        store.note_use(INITRAMFS, digest, path)
    return Initramfs(
        path=path,
        size_bytes=len(data),
        paths=tuple(entry.path for entry in complete),
    )


def _modules(
    programs: GuestPrograms, sbin: str, tree: ModuleTree, closure: Closure, modprobe: ModprobeConfig
) -> list[cpio.Entry]:
    directory = f"lib/modules/{closure.release}"
    entries = [cpio.file(f"{sbin}/modprobe", programs.modprobe.read_bytes(), 0o755)]
    entries += [cpio.link(f"{sbin}/{name}", "modprobe") for name in MODPROBE_NAMES]
    for name, content in pruned_metadata(tree, closure).items():
        entries.append(cpio.file(f"{directory}/{name}", content))
    for module in closure.modules:
        content = read_regular(module.path, MOST_BYTES)
        entries.append(cpio.file(f"{directory}/{module.file.relative}", content))
    entries += [_firmware(closure, file) for file in closure.firmware.files]
    lines = [f"options {module} {options}\n" for module, options in modprobe.options]
    lines += [f"blacklist {module}\n" for module in modprobe.blacklist]
    if lines:
        entries.append(cpio.file(MODPROBE_CONF, "".join(lines).encode()))
    return entries


def _firmware(closure: Closure, file: FirmwareFile) -> cpio.Entry:
    path = f"lib/firmware/{file.relative}"
    if file.link:
        return cpio.link(path, file.link)
    return cpio.file(path, read_regular(closure.firmware.directory / file.relative, MOST_BYTES))


def _extra(path: str, content: bytes) -> cpio.Entry:
    relative = path.lstrip("/")
    if not relative or any(part in ("", ".", "..") for part in relative.split("/")):
        raise BadInput(
            f"{path!r} is no path of a file in the guest",
            Evidence(expected="an absolute path without . and .."),
        )
    program = content.startswith((b"#!", b"\x7fELF"))
    return cpio.file(relative, content, 0o755 if program else 0o644)
