"""Modules of the user's, built, loaded in a fresh guest and unloaded again."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_kernelvm.errors import CommandFailed, Evidence
from pytest_kernelvm.kernel.compat import config_near, require_fit
from pytest_kernelvm.kernel.own_modules import ExternalModules, build_modules
from pytest_kernelvm.modules.elf import read_modinfo
from pytest_kernelvm.vm.cell import Cell
from pytest_kernelvm.vm.vm import Vm

DIRECTORY = "/modules"
INSMOD, RMMOD = f"{DIRECTORY}/insmod", f"{DIRECTORY}/rmmod"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """What became of modules in a guest.

    log: what the kernel said from the first one's loading to the last one's unloading.
    build_s, guest_s: seconds that building, and booting, loading and unloading took.
    """

    modules: tuple[str, ...]
    log: tuple[str, ...]
    build_s: float
    guest_s: float


def build_for(cell: Cell, directory: Path) -> ExternalModules:
    """Build a directory's modules for a cell. Raises BuildFailed also if they do not fit it."""
    built = build_modules(cell.store, cell.kernel, directory)
    require_fit(cell.kernel, built.files)
    return built


def in_load_order(files: Sequence[Path]) -> tuple[tuple[Path, tuple[str, ...]], ...]:
    """Return modules behind those of the same build that they depend on, and all they depend on."""
    depends = {file: _depends(file) for file in files}
    by_name = {_name(file): file for file in files}
    order: dict[Path, None] = {}

    def visit(file: Path, above: tuple[Path, ...]) -> None:
        for name in depends[file]:
            if name in by_name and by_name[name] not in above:
                visit(by_name[name], (*above, file))
        order.setdefault(file)

    for file in files:
        visit(file, ())
    return tuple((file, depends[file]) for file in order)


def _name(file: Path) -> str:
    return file.stem.replace("-", "_")


def _depends(file: Path) -> tuple[str, ...]:
    fields = dict(read_modinfo(file))
    return tuple(name for name in fields.get("depends", "").split(",") if name)


def try_modules(
    cell: Cell, directory: Path, logs: Path, *, options: Mapping[str, str] | None = None
) -> Trial:
    """Build a directory's modules, load them all in a fresh guest, and unload them.

    logs: a directory for the guest's. options: parameters by module.
    Raises BuildFailed, CommandFailed with the kernel's words, or what became of the guest.
    """
    started = time.monotonic()
    files = build_for(cell, directory).files
    built_s = time.monotonic() - started
    return replace(_tried(cell, files, logs, options or {}), build_s=built_s)


def try_files(
    cell: Cell, files: Sequence[Path], logs: Path, *, options: Mapping[str, str] | None = None
) -> Trial:
    """Load modules that somebody built in a fresh guest, and unload them.

    logs, options: as of try_modules.
    Raises BuildFailed, before anything boots, if they are not for the cell's kernel; else as that.
    """
    require_fit(cell.kernel, files, config=config_near(files))
    return _tried(cell, files, logs, options or {})


def _tried(cell: Cell, files: Sequence[Path], logs: Path, options: Mapping[str, str]) -> Trial:
    started = time.monotonic()
    ordered = in_load_order(files)
    own = {_name(file) for file, _depends in ordered}
    wanted = [name for _file, depends in ordered for name in depends if name not in own]
    program = cell.programs.modprobe.read_bytes()
    packed = {f"{DIRECTORY}/{file.name}": file.read_bytes() for file, _depends in ordered}
    packed |= {INSMOD: program, RMMOD: program}
    bootable = cell.bootable(modules=tuple(dict.fromkeys(wanted)), files=packed)
    with Vm(bootable, logs) as vm:
        before = len(vm.dmesg.records)
        if wanted:
            vm.modprobe("-a", *dict.fromkeys(wanted))
        for file, _depends_on in ordered:
            words = options.get(_name(file), "").split()
            _insist(vm, before, INSMOD, f"{DIRECTORY}/{file.name}", *words)
        for file, _depends_on in reversed(ordered):
            _insist(vm, before, RMMOD, _name(file))
        log = _said(vm, before)
    return Trial(
        modules=tuple(_name(file) for file, _depends_on in ordered),
        log=log,
        build_s=0.0,
        guest_s=time.monotonic() - started,
    )


def _insist(vm: Vm, before: int, *argv: str) -> None:
    result = vm.run(*argv)
    if result.status != 0:
        raise CommandFailed(
            f"{vm.label}: {Path(argv[0]).name} {Path(argv[1]).name} failed",
            Evidence(
                expected="status 0",
                seen=result.ended,
                excerpt="\n".join((result.output + result.errors, *_said(vm, before))).strip(),
            ),
        )


def _said(vm: Vm, before: int) -> tuple[str, ...]:
    return tuple(record.text for record in vm.dmesg.records[before:])
