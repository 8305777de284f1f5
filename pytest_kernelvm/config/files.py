"""Files that a vm-config names."""

from __future__ import annotations

import contextlib
import stat
from pathlib import Path

from pytest_kernelvm.config.context import CellContext
from pytest_kernelvm.config.typed_yaml.expected import PlacedText
from pytest_kernelvm.config.typed_yaml.mistakes import did_you_mean
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.files import file_kind


def existing_file(name: PlacedText, context: CellContext, what: str) -> Path:
    """Return the path of a file that a vm-config names.

    Args:
        name: A path, in which `{version}` stands for the cell's version.
        context: Says in which directory a relative path begins.
        what: What messages call the file, such as `the patch`.

    Raises:
        BadInput: There is no such file, or it is a directory or another special file.
    """
    path = context.directory / context.with_version(name.text)
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        # To read a FIFO or a device might never end.
        if not stat.S_ISREG(mode):
            raise BadInput(
                f"{what} {path} is {file_kind(mode)}, no regular file",
                Evidence(where=(str(name.place),)),
            )
    if not path.is_file():
        raise BadInput(
            f"{what} {path} does not exist",
            Evidence(
                where=(str(name.place),),
                next_step=did_you_mean(
                    path.name, _file_names(path.parent), lambda near: str(path.parent / near)
                ),
            ),
        )
    return path


def _file_names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []
