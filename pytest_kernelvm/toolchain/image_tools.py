"""Images that only a program makes which kernels do not bring themselves."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pytest_kernelvm.process import find_program


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTool:
    """A program that makes an image.

    packages: one name each for apt, dnf, pacman, nix and brew, or one for all. version_flag: has it
    tell its version.
    """

    program: str
    packages: tuple[str, ...]
    version_flag: str = "-V"


# scripts/mkuboot.sh
_MKIMAGE = ImageTool(
    program="mkimage",
    packages=("u-boot-tools", "uboot-tools", "uboot-tools", "ubootTools", "u-boot-tools"),
)
# By make target.
IMAGE_TOOLS = {"uImage": _MKIMAGE}


def require_image_tools(images: Iterable[str]) -> None:
    """Raise ToolMissing, with its package, if a program is not here that makes an image.

    images: make targets.
    """
    for image in images:
        if image in IMAGE_TOOLS:
            tool = IMAGE_TOOLS[image]
            find_program(tool.program, f"apt-get install {tool.packages[0]}, or leave out {image}")
