"""Patches that a vm-config asks for."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_kernelvm.config.context import CellContext
from pytest_kernelvm.config.files import existing_file
from pytest_kernelvm.config.requests import SYMBOLS, Requested, all_requests, versions_key
from pytest_kernelvm.config.typed_yaml.expected import (
    ListOf,
    PlacedText,
    Text,
    WholeNumber,
    placed,
)
from pytest_kernelvm.config.typed_yaml.rows import Record, Written, key, place_of, yaml_mapping
from pytest_kernelvm.config.versions import VersionRange

BUILTIN_PATCHES = Path(__file__).parents[1] / "kernel" / "patches"
# The end of a patch's file name that is not part of the patch's name.
_SUFFIXES = re.compile(r"(?:\.(?:patch|diff|gz|xz|bz2|zst))+$")


def builtin_patch(name: str) -> Path:
    """Return the path that a patch of this name has if it comes with the package.

    Args:
        name: Without .patch.
    """
    return BUILTIN_PATCHES / f"{name}.patch"


def _patch_file(name: PlacedText, context: CellContext) -> Path:
    builtin = builtin_patch(name.text)
    return builtin if builtin.is_file() else existing_file(name, context, "the patch")


def _name_of_file(written: Written, context: CellContext) -> str:
    return _SUFFIXES.sub("", _patch_file(written["file"], context).name)


@yaml_mapping
class Patch:
    """A patch that is applied to a kernel's source.

    Attributes:
        name: What messages call it.
        file: The patch, perhaps compressed.
        where: The place in the vm-config.
        versions: The kernel versions that it is for; of others it is not applied.
        symbols: What it asks for in the configuration of these versions.
        features: What it brings; tests ask for it with the marker kernelvm_features.
        fuzz: How many lines of context may differ (patch(1), --fuzz).
    """

    name: str = key(
        Text(doc="What messages call it.", pattern=r".+", shape="a name"),
        default_from=_name_of_file,
        default_text="the file's name",
    )
    file: Path = key(
        placed(
            "The name of a built-in patch, or a file relative to this one; .gz .xz .bz2 .zst too.",
            pattern=r".+",
            shape="a name or a path",
        ),
        convert=_patch_file,
    )
    where: str = place_of("file")
    versions: VersionRange = versions_key()
    symbols: tuple[Requested, ...] = key(
        SYMBOLS,
        name="config",
        convert=lambda symbols, _context: all_requests(symbols),
        default=(),
    )
    features: tuple[str, ...] = key(
        ListOf(
            doc="What it brings; tests ask for it with the marker kernelvm_features.",
            item=Text(doc="A word.", pattern=r"[A-Za-z0-9_.-]+", shape="a word"),
        ),
        default=(),
    )
    fuzz: int = key(
        WholeNumber(doc="Lines of context that may differ, as patch --fuzz.", least=0, most=3),
        default=0,
    )


_PATCH = Record(cls=Patch, doc="A patch and what it is for.", bare="file")


def _may_be_for(written: Written, context: CellContext) -> bool:
    """Return whether a patch may be for the cell's version; files of others may be missing."""
    versions: VersionRange = _PATCH.value_of("versions", written, context)
    return versions.may_include(context.version)


PATCHES = ListOf(doc="Patches, applied in this order.", item=_PATCH, chosen=_may_be_for)
