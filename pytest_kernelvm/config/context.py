"""What the values of a vm-config depend on besides what is written at their place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.config.typed_yaml.expected import Context


@dataclass(frozen=True, kw_only=True, slots=True)
class CellContext(Context):
    """The cell that is made from a vm-config.

    Attributes:
        arch: The file's architecture.
        version: The kernel version of this cell.
    """

    arch: Arch
    version: str

    @property
    def directory(self) -> Path:
        """The vm-config's directory; relative paths in it begin there."""
        return self.file.parent

    def with_version(self, text: str) -> str:
        """Return a text with the kernel's version in place of `{version}`.

        Args:
            text: May contain `{version}`, such as a part of a path.
        """
        return text.replace("{version}", self.version)
