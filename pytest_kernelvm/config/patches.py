"""Patches that a vm-config asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pytest_kernelvm.config.files import existing_file
from pytest_kernelvm.config.model import BUILTIN_PATCHES, Patch
from pytest_kernelvm.config.requests import read_symbols, within_versions
from pytest_kernelvm.config.typed_yaml import Located
from pytest_kernelvm.config.versions import EVERY_VERSION, VersionRange

# What a patch's file name has behind the patch's name.
_SUFFIXES = re.compile(r"(?:\.(?:patch|diff|gz|xz|bz2|zst))+$")


def _patch(base: Path, given: Located | dict[str, Any], version: str) -> Patch:
    detailed: dict[str, Any] = {"file": given} if isinstance(given, Located) else given
    located: Located = detailed["file"]
    versions = detailed.get("versions")
    of = VersionRange(versions.text) if versions else EVERY_VERSION
    builtin = BUILTIN_PATCHES / f"{located.text}.patch"
    file = builtin if builtin.is_file() else existing_file(base, located, "the patch", version)
    return Patch(
        name=str(detailed.get("name", _SUFFIXES.sub("", file.name))),
        file=file,
        where=str(located.place),
        versions=of,
        symbols=tuple(
            within_versions(each, of) for each in read_symbols(detailed.get("config", {}))
        ),
        features=tuple(detailed.get("features", ())),
        fuzz=int(detailed.get("fuzz", 0)),
    )


def read_patches(base: Path, given: Iterable[Any], version: str) -> list[Patch]:
    """Return the patches that may be for a version; files of the others need not be there."""
    chosen = []
    for each in given:
        versions = None if isinstance(each, Located) else each.get("versions")
        if versions is None or VersionRange(versions.text).may_include(version):
            chosen.append(_patch(base, each, version))
    return chosen
