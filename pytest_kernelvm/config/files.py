"""Files that a vm-config names."""

from __future__ import annotations

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
        BadInput: There is no such file, it is a directory or another special file, or its path
            cannot be followed.
    """
    path = context.directory / context.with_version(name.text)
    place = str(name.place)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        near = did_you_mean(
            path.name, _file_names(path.parent), lambda found: str(path.parent / found)
        )
        raise BadInput(
            f"{what} {path} does not exist", Evidence(where=(place,), next_step=near)
        ) from None
    except OSError as error:
        raise BadInput(
            f"{what} {path} cannot be read: {error.strerror}", Evidence(where=(place,))
        ) from None
    # To read a FIFO or a device might never end.
    if not stat.S_ISREG(mode):
        raise BadInput(
            f"{what} {path} is {file_kind(mode)}, no regular file", Evidence(where=(place,))
        )
    return path


def _file_names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []
