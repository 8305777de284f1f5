"""All architectures: the rows of every family's file in this package."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import pkgutil
from collections.abc import Collection, Iterator

import pytest_kernelvm.arch as _package
from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.errors import BadInput, Evidence

_NO_FAMILIES = ("base", "registry")


def _rows() -> Iterator[Arch]:
    for module in pkgutil.iter_modules(_package.__path__):
        if module.name not in _NO_FAMILIES:
            yield from importlib.import_module(f"{_package.__name__}.{module.name}").ROWS


ARCHES: dict[str, Arch] = {arch.name: arch for arch in _rows()}


class _ImageTargets(Collection[str]):
    """The image targets of the rows that are registered now, each once."""

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(image for arch in ARCHES.values() for image in arch.images))

    def __contains__(self, image: object) -> bool:
        return any(image in arch.images for arch in ARCHES.values())

    def __len__(self) -> int:
        return sum(1 for _image in self)


IMAGE_TARGETS: Collection[str] = _ImageTargets()


def arch_named(name: str) -> Arch:
    """Return the row of one architecture.

    Args:
        name: Our name of it, such as `aarch64`.

    Raises:
        BadInput: There is no such row; near matches are named.
    """
    try:
        return ARCHES[name]
    except KeyError:
        near = difflib.get_close_matches(name, ARCHES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else ""
        raise BadInput(
            f"unknown arch {name!r}",
            Evidence(expected=f"one of {', '.join(ARCHES)}", next_step=hint),
        ) from None


@contextlib.contextmanager
def registered(arch: Arch) -> Iterator[Arch]:
    """Add a row for as long as the context lasts, as if a file of this package had it.

    Args:
        arch: A row whose name no other row has.

    Yields:
        The row.

    Raises:
        BadInput: Another row has this name.
    """
    if arch.name in ARCHES:
        raise BadInput(f"there is an arch {arch.name!r} already")
    ARCHES[arch.name] = arch
    try:
        yield arch
    finally:
        del ARCHES[arch.name]
