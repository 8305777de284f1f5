"""Programs that make some images of a kernel and are not part of the kernel's source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from pytest_kernelvm.process import find_program


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageTool:
    """A program that makes an image.

    Attributes:
        program: Its name in PATH.
        packages: Its packages for apt, dnf, pacman, nix and brew, in this order, or one name that
            all of them use.
        version_flag: The flag with which it prints its version.
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
    """Check that the programs that make some images are installed.

    If one is not, ToolMissing is raised and names its package.

    Args:
        images: Targets of the kernel's make.
    """
    for image in images:
        if image in IMAGE_TOOLS:
            tool = IMAGE_TOOLS[image]
            find_program(tool.program, f"apt-get install {tool.packages[0]}, or leave out {image}")
