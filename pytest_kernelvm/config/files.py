"""Files that a vm-config names."""

from __future__ import annotations

import contextlib
import difflib
import stat
from pathlib import Path

from pytest_kernelvm.config.model import BASE_TARGETS
from pytest_kernelvm.config.typed_yaml import Located
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.files import file_kind


def existing_file(base: Path, located: Located, what: str, version: str) -> Path:
    """Return a file that a vm-config names, which must exist. Raises BadInput."""
    path = base / located.text.replace("{version}", version)
    with contextlib.suppress(OSError):
        mode = path.stat().st_mode
        # Reading anything else might never end.
        if not stat.S_ISREG(mode):
            raise BadInput(
                f"{what} {path} is {file_kind(mode)}, no regular file",
                Evidence(where=(str(located.place),)),
            )
    if not path.is_file():
        near = difflib.get_close_matches(path.name, _file_names(path.parent), n=1)
        raise BadInput(
            f"{what} {path} does not exist",
            Evidence(
                where=(str(located.place),),
                next_step=f"did you mean {path.parent / near[0]}?" if near else "",
            ),
        )
    return path


def _file_names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []


def read_base_config(base: Path, located: Located | None, version: str) -> str:
    """Return the base configuration: a make target's name or a file's path. Raises BadInput."""
    if located is None:
        return "allnoconfig"
    text = located.text
    if "/" in text or "." in text:
        return str(existing_file(base, located, "the base configuration", version))
    if text not in BASE_TARGETS and not text.endswith("_defconfig"):
        near = difflib.get_close_matches(text, BASE_TARGETS, n=1)
        raise BadInput(
            f"there is no base configuration {text!r}",
            Evidence(
                expected=f"{', '.join(BASE_TARGETS)}, NAME_defconfig, or a complete .config file "
                "with a dot or slash in its name",
                where=(str(located.place),),
                next_step=f"did you mean {near[0]!r}?" if near else "",
            ),
        )
    return text
