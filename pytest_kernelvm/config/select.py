"""Finds the cells that a command line asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.config.kernel import KernelConfig
from pytest_kernelvm.config.load import read_config
from pytest_kernelvm.config.model import CellConfig, GuestConfig, Machine, ModprobeConfig, Timeouts
from pytest_kernelvm.config.services import shipped_services
from pytest_kernelvm.config.sources import Source
from pytest_kernelvm.config.typed_yaml.mistakes import did_you_mean
from pytest_kernelvm.errors import BadInput, Evidence

# Enough for a distribution's kernel with all its modules.
PREBUILT_MEMORY_MIB = 512


def select_cells(
    directory: Path, *, names: Sequence[str] = (), arches: Sequence[str] = ()
) -> tuple[CellConfig, ...]:
    """Return the cells of a directory of vm-configs.

    Args:
        directory: Where the vm-configs are (`*.yaml`).
        names: Names of vm-configs (`malta`), ids of cells (`malta-6.12`) or paths of files, which
            may be elsewhere; empty for all cells.
        arches: Names of architectures; empty for all.

    Raises:
        BadInput: The directory has no vm-config and none is named by its path, a vm-config has
            mistakes, or a name is that of no cell.
    """
    configs = _configs_of(_files(directory, names))
    for name in names:
        if not any(_fits(config, name) for config in configs):
            raise BadInput(
                f"no vm-config or cell is called {name!r}", _near(name, configs, directory)
            )
    return tuple(
        config
        for config in configs
        if (not names or any(_fits(config, name) for name in names))
        and (not arches or config.arch.name in arches)
    )


def _files(directory: Path, names: Iterable[str]) -> list[Path]:
    files = sorted(directory.glob("*.yaml"))
    files += [Path(name) for name in names if name.endswith((".yaml", ".yml"))]
    if not files:
        raise BadInput(
            f"no vm-configs in {directory}",
            Evidence(
                expected=f"{directory}/*.yaml",
                next_step="write one, or name the directory: --kernelvm-configs for pytest, "
                "--configs for kernelvm",
            ),
        )
    return files


def _configs_of(files: Iterable[Path]) -> list[CellConfig]:
    return [config for file in dict.fromkeys(files) for config in read_config(file)]


def _fits(config: CellConfig, name: str) -> bool:
    return name in (config.id, config.name) or Path(name) == config.file


def _near(name: str, configs: Sequence[CellConfig], directory: Path) -> Evidence:
    known = [
        *dict.fromkeys(config.name for config in configs),
        *(config.id for config in configs),
    ]
    return Evidence(
        expected=f"one of {', '.join(known)}",
        where=(str(directory),),
        next_step=did_you_mean(name, known),
    )


def prebuilt_cell(source: Source, arch: Arch) -> CellConfig:
    """Return a cell for a prebuilt kernel, without a vm-config.

    Args:
        source: A source of the kind `prebuilt`.
        arch: The architecture of the kernel.
    """
    return CellConfig(
        id=f"prebuilt-{arch.name}",
        name="prebuilt",
        file=Path(),
        arch=arch,
        kernel=KernelConfig(version="", source=source, base="", images=(arch.default_image,)),
        allow_empty=True,
        modprobe=ModprobeConfig(),
        services=shipped_services(),
        guest=GuestConfig(),
        machine=Machine(
            memory_mib=min(PREBUILT_MEMORY_MIB, arch.max_memory_mib),
            cpu=arch.cpu,
        ),
        timeouts=Timeouts(boot_s=120.0, command_s=60.0),
    )


def with_source(configs: Iterable[CellConfig], source: Source) -> tuple[CellConfig, ...]:
    """Return cells whose kernels come from another source.

    Args:
        configs: The cells as their vm-configs have them.
        source: Takes the place of each cell's own.
    """
    return tuple(
        replace(config, kernel=replace(config.kernel, source=source)) for config in configs
    )
