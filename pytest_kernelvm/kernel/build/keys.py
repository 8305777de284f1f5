"""What names a kernel in the store: all that decides its bytes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pytest_kernelvm.config.model import CellConfig
from pytest_kernelvm.config.patches import Patch
from pytest_kernelvm.kernel.kconfig.requests import requests_key
from pytest_kernelvm.store.digest import Digest, digest_of, file_digest
from pytest_kernelvm.toolchain.compiler import tool_variables
from pytest_kernelvm.toolchain.config_tools import hiding_settings

# Counts up whenever the way of building changes what comes out.
RECIPE = 3

# Fixed, so that the same inputs give the same bytes (Documentation/kbuild/reproducible-builds.rst).
PINNED = {
    "KBUILD_BUILD_TIMESTAMP": "2024-01-01 00:00:00 UTC",
    "KBUILD_BUILD_USER": "kernelvm",
    "KBUILD_BUILD_HOST": "kernelvm",
    "KBUILD_BUILD_VERSION": "1",
    # scripts/setlocalversion appends nothing of a repository that the source happens to be in.
    "GIT_DIR": os.devnull,
    # Python scripts must not write into the source either.
    "PYTHONDONTWRITEBYTECODE": "1",
}


def request_key(config: CellConfig, source: str, compiler: str) -> dict[str, Any]:
    """Return all that decides which kernel a cell means, known before anything is configured.

    Args:
        config: The cell.
        source: A digest of the source, or of the part that decides a configuration.
        compiler: The compiler's version.

    Returns:
        A JSON value.
    """
    kernel = config.kernel
    base = Path(kernel.base)
    return {
        "recipe": RECIPE,
        "source": source,
        "patches": [_patch_key(patch, kernel.version) for patch in kernel.patches],
        "base": file_digest(base) if base.is_file() else kernel.base,
        "requests": requests_key(kernel),
        "linux_arch": config.arch.linux_arch,
        "images": kernel.images,
        "compiler": compiler,
    }


def _patch_key(patch: Patch, version: str) -> Any:
    digest = file_digest(patch.file)
    # The vm-config's version decides of most patches whether they apply. The range of the others is
    # part of the key.
    open_yet = patch.versions.beyond(version).text
    return [digest, open_yet] if open_yet else digest


def make_variables(config: CellConfig, tools: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the variables that make is given for a cell's kernel, besides where it builds.

    Args:
        config: The cell.
        tools: Programs that the configuration needs, as `needed_tools` names them.

    Returns:
        Words `NAME=VALUE` of make's command line.
    """
    return (
        f"ARCH={config.arch.linux_arch}",
        *tool_variables(config.arch, config.kernel.llvm),
        "LOCALVERSION=",
        *hiding_settings(tools),
    )


def kernel_digest(
    *, source: str, patches: Sequence[str], config: str, compiler: str, images: Sequence[str]
) -> Digest:
    """Return what names a kernel: all that decides its bytes, and nothing else.

    Args:
        source: Digest of the source.
        patches: Digests of the patches.
        config: Text of the final .config.
        compiler: The compiler's version.
        images: The make targets whose files are stored.

    Returns:
        The digest.
    """
    return digest_of(
        {
            "recipe": RECIPE,
            "source": source,
            "patches": patches,
            "config": config,
            "compiler": compiler,
            "images": images,
        }
    )
