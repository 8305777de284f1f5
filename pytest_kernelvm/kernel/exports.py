"""Which symbols a kernel's image and modules export, and their CRCs, as far as that is known."""

from __future__ import annotations

import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.files import regular_content, require_regular

SYMVERS = "Module.symvers"
# The Module.symvers of a distribution has 2 MiB.
MOST_BYTES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Exports:
    """What a kernel exports.

    Attributes:
        crcs: CRCs by symbol, from a Module.symvers; None without one.
        names: Without it, what the modules export.
        image: Without it, the bytes in which the image's own names are.
    """

    crcs: Mapping[str, str] | None
    names: frozenset[str] = frozenset()
    image: bytes = b""

    @cached_property
    def has_crcs(self) -> bool:
        """Whether the kernel has MODVERSIONS; all CRCs of one without are zero."""
        return any(int(crc, 16) for crc in (self.crcs or {}).values())

    def may_have(self, name: str) -> bool:
        """Whether a symbol is exported; without a table, whether it may be.

        Each export's name is a string in the image (include/linux/export.h, __ksymtab_strings). The
        linker may have merged it with a longer one that ends so.

        Args:
            name: Of the symbol.

        Returns:
            False only if it is certainly not exported.
        """
        if self.crcs is not None:
            return name in self.crcs
        return name in self.names or f"{name}\0".encode() in self.image or not self._is_readable

    @cached_property
    def _is_readable(self) -> bool:
        """Whether the image is not compressed: all that have modules export printk or _printk."""
        return b"printk\0" in self.image


def exports_of(entry: Path, module_tree: Path, image: Path) -> Exports:
    """Return what a kernel exports.

    Raises BadInput if its Module.symvers is damaged.

    Args:
        entry: The kernel's in the store.
        module_tree: Its lib/modules/RELEASE.
        image: Its image.

    Returns:
        What is known of its exports.
    """
    symvers = entry / SYMVERS
    if symvers.is_file():
        return Exports(crcs=exported(symvers))
    names = frozenset(_of_modules(module_tree))
    return Exports(crcs=None, names=names, image=image.read_bytes())


def exported(symvers: Path) -> dict[str, str]:
    """Return the CRCs of the symbols of a Module.symvers.

    Args:
        symvers: The file.

    Returns:
        By symbol, the CRC as it stands there.

    Raises:
        BadInput: It is damaged; the error names the line.
    """
    found = {}
    try:
        lines = regular_content(symvers, MOST_BYTES).decode(errors="replace").splitlines()
    except OSError as error:
        raise BadInput(
            f"cannot read {symvers.name}: {error.strerror}", Evidence(where=(str(symvers),))
        ) from None
    for number, line in enumerate(lines, start=1):
        fields = line.split("\t")
        if len(fields) < 4 or not re.fullmatch("0x[0-9a-f]{1,16}", fields[0]):
            raise BadInput(
                f"{symvers.name} is damaged",
                Evidence(
                    expected="CRC, symbol, module and kind of export between tabs",
                    seen=line[:80],
                    where=(f"{symvers}:{number}",),
                ),
            )
        found[fields[1]] = fields[0]
    return found


def _of_modules(tree: Path) -> Iterator[str]:
    """Give the symbols that a tree's modules export (depmod(8), modules.symbols)."""
    try:
        text = regular_content(tree / "modules.symbols", MOST_BYTES).decode(errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        found = re.match(r"alias symbol:(\S+) \S+", line)
        if found:
            yield found[1]


def store_symvers(root: Path, image: Path, modules: Path | None, release: str, entry: Path) -> bool:
    """Copy a finished kernel's table of exports into its entry.

    Raises BadInput if there is something else in the place of one.

    Args:
        root: Below which all that belongs to the kernel is.
        image: As found there.
        modules: Its lib/modules/RELEASE, None without modules.
        release: The kernel's.
        entry: Where the table is put.

    Returns:
        Whether there was one.
    """
    for path in symvers_files(root, image, modules, release):
        try:
            with _OPEN.get(path.suffix, Path.open)(path, "rb") as packed:
                text = packed.read(MOST_BYTES + 1)
        except (OSError, EOFError, lzma.LZMAError, zlib.error):
            continue
        if len(text) > MOST_BYTES:
            continue
        (entry / SYMVERS).write_bytes(text)
        try:
            exported(entry / SYMVERS)
        except BadInput:
            (entry / SYMVERS).unlink()
            continue
        return True
    return False


def symvers_files(root: Path, image: Path, modules: Path | None, release: str) -> tuple[Path, ...]:
    """Return the files that may be a finished kernel's table of exports.

    Raises BadInput if there is something else in the place of one.

    Args:
        root: Below which all that belongs to the kernel is.
        image: As found there.
        modules: Its lib/modules/RELEASE, None without modules.
        release: The kernel's.

    Returns:
        The files that are there, the likeliest first.
    """
    # A link of a foreign tree may lead to this machine's own kernel.
    found = tuple(
        path
        for path in _places(root, image, modules, release)
        if path.exists() and path.resolve().is_relative_to(root.resolve())
    )
    for path in found:
        require_regular(path)
    return found


_OPEN: Mapping[str, Callable[[Path, str], Any]] = {".gz": gzip.open, ".xz": lzma.open}


def _places(root: Path, image: Path, modules: Path | None, release: str) -> Iterator[Path]:
    """Where build trees, Debian's linux-headers and Fedora's kernel-core and -devel have it."""
    yield image.with_name(SYMVERS)
    for source in (f"linux-headers-{release}", f"kernels/{release}", f"linux-{release}"):
        yield root / "usr/src" / source / SYMVERS
    if modules:
        yield modules / SYMVERS
        yield modules / "build" / SYMVERS
    for packed in (".gz", ".xz"):
        yield image.with_name(f"symvers-{release}{packed}")
        if modules:
            yield modules / f"symvers{packed}"
