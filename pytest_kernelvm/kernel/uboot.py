"""U-Boot for a machine, built from Debian's source with the cross compiler of its kernels."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import Arch, UBoot
from pytest_kernelvm.errors import BadInput, Evidence, HarnessError
from pytest_kernelvm.fetch.debian import (
    fetch_source,
    host_arch,
    make_source,
    unpack_packages,
    unpack_source,
)
from pytest_kernelvm.kernel.kconfig.dot_config import as_config, parse_config
from pytest_kernelvm.store.digest import digest_of
from pytest_kernelvm.store.kinds import UBOOTS
from pytest_kernelvm.store.store import StagingDirectory, Store
from pytest_kernelvm.toolchain.compiler import compiler_version

# Counts up whenever the way of making changes what comes out.
RECIPE = 1
SUITE = "bookworm"
SOURCE = "u-boot"
# mkimage is linked with libssl, which no kernel build needs.
HOST_PACKAGES = ("libssl-dev",)
MKIMAGE = "mkimage"
FIRMWARE = "firmware"

# The banner of U-Boot has the time of the build.
EPOCH = {"SOURCE_DATE_EPOCH": "0"}


@dataclass(frozen=True, kw_only=True, slots=True)
class UBootBinary:
    """U-Boot in the store.

    Attributes:
        firmware: What a machine begins with. It runs the script at its architecture's
            `uboot.script`, and passes device trees as the UHI boot protocol says.
        mkimage: The program that makes what it takes for images.
    """

    firmware: Path
    mkimage: Path


def obtain_uboot(store: Store, arch: Arch) -> UBootBinary:
    """Return the U-Boot of an architecture's machine, fetched and built unless the store has it.

    Raises BadInput if there is none for the architecture, ToolMissing if its source can't be
    fetched, BuildFailed if make failed; the error has what the compiler said.

    Args:
        store: Where it is put.
        arch: The architecture.

    Returns:
        Firmware and mkimage.
    """
    board = arch.uboot
    if not board:
        missing = no_uboot(arch)
        raise missing
    settings = _settings(board)
    digest = digest_of(
        {
            "recipe": RECIPE,
            "suite": SUITE,
            "defconfig": board.defconfig,
            "settings": settings,
            "compiler": compiler_version(arch),
        }
    )
    label = f"U-Boot for {arch.name}"

    def make(work: StagingDirectory) -> dict[str, Any]:
        store.progress.say(f"building {label}")
        return {"packages": _build(store, arch, board, settings, work), "arch": arch.name}

    entry = store.obtain(UBOOTS, digest, make, label=label)
    return UBootBinary(firmware=entry / FIRMWARE, mkimage=entry / MKIMAGE)


def no_uboot(arch: Arch) -> BadInput:
    """Return the error for an architecture that U-Boot is not built for."""
    return BadInput(
        f"there is no U-Boot for {arch.name}",
        Evidence(expected="a machine on which QEMU's bootloader passes no device tree"),
    )


def _settings(board: UBoot) -> dict[str, str]:
    """Return what differs from the board's defconfig.

    Nothing is waited for, no question asked, no disk or network looked for. Device trees are passed
    as UHI says.

    Returns:
        Values by symbol.
    """
    return {
        "AUTOBOOT": "y",
        "BOOTDELAY": "-2",
        "USE_BOOTCOMMAND": "y",
        "BOOTCOMMAND": f'"source {board.virtual + board.script:#x}"',
        "ENV_IS_NOWHERE": "y",
        "ENV_IS_IN_FLASH": "n",
        "CMD_IDE": "n",
        "NET": "n",
        **board.symbols,
    }


def _build(
    store: Store, arch: Arch, board: UBoot, settings: dict[str, str], work: StagingDirectory
) -> list[str]:
    source, objects = work.directory / "source", work.directory / "objects"
    host = work.directory / "host"
    files = fetch_source(store, SOURCE, suite=SUITE)
    unpack_source(files, source)
    host_packages = unpack_packages(
        store, HOST_PACKAGES, arch=host_arch(), suite=SUITE, directory=host
    )
    objects.mkdir()
    argv = ["make", f"--directory={source}", f"O={objects}", f"-j{os.cpu_count() or 1}"]
    argv += [f"CROSS_COMPILE={arch.toolchain_prefix}", *_host_flags(host)]
    log = work.directory / "make.log"

    def make(*goals: str) -> None:
        make_source(f"U-Boot for {arch.name}", [*argv, *goals], log=log, env=EPOCH)

    make(board.defconfig)
    config = objects / ".config"
    config.write_text(config.read_text() + as_config(settings))
    make("olddefconfig")
    final = parse_config(config.read_text())
    lost = [name for name, value in settings.items() if final.get(name, "n") != value]
    if lost:
        raise HarnessError(f"U-Boot for {arch.name} lacks requested settings: {', '.join(lost)}")
    make(board.image, "tools")
    work.entry.mkdir(exist_ok=True)
    shutil.copy2(objects / board.image, work.entry / FIRMWARE)
    shutil.copy2(objects / "tools" / MKIMAGE, work.entry / MKIMAGE)
    return [*(file.name for file in files), *host_packages]


def _host_flags(host: Path) -> list[str]:
    """Return what finds the host's packages. Of their library there is only the static form."""
    headers = {path.parents[1] for path in host.rglob("openssl/*.h")}
    libraries = {path.parent for path in host.rglob("libcrypto.a")}
    return [
        f"HOSTCFLAGS={' '.join(f'-isystem {path}' for path in sorted(headers))}",
        f"HOSTLDFLAGS={' '.join(f'-L{path}' for path in sorted(libraries))}",
    ]
