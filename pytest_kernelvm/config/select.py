"""The cells that a command line asks for."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path

from pytest_kernelvm.config.load import read_config
from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.errors import BadInput, Evidence


def select_cells(
    directory: Path, *, names: Sequence[str] = (), arches: Sequence[str] = ()
) -> tuple[CellConfig, ...]:
    """Return the cells of a directory of vm-configs.

    names: file stems (`malta`), cell ids (`malta-6.12`) or paths of files; empty for all.
    arches: only cells of these architectures; empty for all.
    Raises BadInput for a directory without vm-configs, or a name that fits no cell.
    """
    files = sorted(directory.glob("*.yaml"))
    paths = [Path(name) for name in names if name.endswith((".yaml", ".yml"))]
    if not files and not paths:
        raise BadInput(
            f"no vm-configs in {directory}",
            Evidence(
                expected=f"{directory}/*.yaml",
                next_step="write one, or name the directory: --kernelvm-configs for pytest, "
                "--configs for kernelvm",
            ),
        )
    cells = _cells_of([*files, *paths])
    for name in names:
        if not any(_fits(cell, name) for cell in cells):
            known = [*dict.fromkeys(cell.name for cell in cells), *(cell.id for cell in cells)]
            near = difflib.get_close_matches(name, known, n=1)
            raise BadInput(
                f"no vm-config or cell is called {name!r}",
                Evidence(
                    expected=f"one of {', '.join(known)}",
                    where=(str(directory),),
                    next_step=f"did you mean {near[0]!r}?" if near else "",
                ),
            )
    chosen = [cell for cell in cells if not names or any(_fits(cell, name) for name in names)]
    return tuple(cell for cell in chosen if not arches or cell.arch.name in arches)


def _fits(cell: CellConfig, name: str) -> bool:
    return name in (cell.id, cell.name) or Path(name) == cell.file


def _cells_of(files: Iterable[Path]) -> list[CellConfig]:
    return [cell for file in dict.fromkeys(files) for cell in read_config(file)]
