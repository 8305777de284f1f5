"""Reads a vm-config into its cells, one for each kernel version."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pytest_kernelvm.arch.base import CookieSupport
from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.config.context import CellContext
from pytest_kernelvm.config.model import VM_CONFIG, CellConfig
from pytest_kernelvm.config.patches import Patch, builtin_patch
from pytest_kernelvm.config.requests import Requested, within_versions
from pytest_kernelvm.config.typed_yaml.mistakes import Mistakes
from pytest_kernelvm.config.typed_yaml.nodes import compose
from pytest_kernelvm.errors import BadInput, Evidence

# The name is part of paths, ids of tests, and options of QEMU.
_NAME = re.compile(r"\w[\w.+~ -]{0,99}")


def read_config(file: Path, *, version: str = "") -> tuple[CellConfig, ...]:
    """Read one vm-config.

    BadInput is raised if the file, or a file that it names, is wrong: with file, line and column
    of all mistakes in the text, or of the first thing that cannot be.

    Args:
        file: The vm-config; its name without suffix becomes the cells' name.
        version: A kernel version to make a cell for, empty for those that the file names.

    Returns:
        One cell for each version, in the order of the file.
    """
    _check_name(file)
    mistakes = Mistakes(file)
    written = VM_CONFIG.read(compose(file), mistakes)
    mistakes.raise_if_any()
    arch = ARCHES[written["arch"]]
    versions = [version] if version else written["kernel"]["version"]
    contexts = (CellContext(file=file, arch=arch, version=each) for each in dict.fromkeys(versions))
    return tuple(_with_implied(VM_CONFIG.value(written, context)) for context in contexts)


def _check_name(file: Path) -> None:
    if not _NAME.fullmatch(file.stem) or file.stem.endswith(" "):
        raise BadInput(
            f"{file.name!r} is no name for a vm-config",
            Evidence(
                expected="letters, digits, and _ . + ~ - or blanks between them, at most 100",
                where=(repr(str(file)),),
                next_step="rename it: its cells are called by its name",
            ),
        )


def _with_implied(config: CellConfig) -> CellConfig:
    """Return a cell with the symbols and the patch that its cookie and patches imply."""
    kernel = config.kernel
    for_patches = (
        within_versions(request, patch.versions)
        for patch in kernel.patches
        for request in patch.symbols
    )
    return replace(
        config,
        kernel=replace(
            kernel,
            symbols=(*_for_cmdline(config), *for_patches, *kernel.symbols),
            patches=(*kernel.patches, *_cookie_patch(config)),
        ),
    )


def _cookie_patch(config: CellConfig) -> Iterator[Patch]:
    if config.cookie:
        name = _cookie_facts(config).patch
        yield Patch(name=name, file=builtin_patch(name), where=f"{config.file} (cookie)")


def _for_cmdline(config: CellConfig) -> Iterator[Requested]:
    """Yield the symbols for the built-in command line and the cookie."""
    arch, cookie = config.arch, config.cookie
    # Without a cookie the kernel always obeys the bootloader's line. That says where the initramfs
    # is, so the built-in line must not say it again.
    own = arch.builtin_cmdline if cookie else arch.base_cmdline
    line = " ".join(part for part in (own, config.builtin_cmdline) if part)
    symbols = {**dict.fromkeys(arch.builtin_cmdline_symbols, "y"), "CMDLINE": f'"{line}"'}
    for name, value in symbols.items():
        yield Requested(name=name, value=value, where=f"{config.file} (builtin_cmdline)")
    for name, value in _cookie_symbols(config).items():
        yield Requested(name=name, value=value, where=f"{config.file} (cookie)")


def _cookie_symbols(config: CellConfig) -> dict[str, str]:
    cookie = config.cookie
    if not cookie:
        return {}
    facts = _cookie_facts(config)
    symbols = {facts.require_symbol: "y", facts.symbol: f'"{cookie.text}"'}
    if cookie.whole_word:
        symbols[facts.word_symbol] = "y"
    return symbols


def _cookie_facts(config: CellConfig) -> CookieSupport:
    """Return how a cookie is set in the kernels of a cell's architecture.

    Raises:
        BadInput: No patch of ours does that for this architecture.
    """
    if not config.arch.cookie:
        raise BadInput(
            f"a kernel for {config.arch.name} has no support for a cookie",
            Evidence(
                where=(f"{config.file} (cookie)",),
                next_step="leave out `cookie:`; the kernel obeys the bootloader's command line",
            ),
        )
    return config.arch.cookie
