"""Firmware: what modules may load, and the files that provide it.

The kernel looks in updates/RELEASE, updates, RELEASE and the directory itself, in each for the
name, NAME.zst and NAME.xz (drivers/base/firmware_loader/main.c). Modules name it in `.modinfo`,
some by patterns (include/linux/module.h, MODULE_FIRMWARE).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NoReturn

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.modules.modinfo import read_modinfo
from pytest_kernelvm.modules.names import is_pattern, literal_parts, pattern_regex
from pytest_kernelvm.modules.provenance import ClosureModule
from pytest_kernelvm.modules.tree import ModuleTree

WhenMissing = Literal["warning", "error"]

_SUFFIXES = ("", ".zst", ".xz")
# Linux follows no more links (include/linux/namei.h, MAXSYMLINKS).
_MOST_LINKS = 40
_MOST_NAMED = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class FirmwareFile:
    """A file or symbolic link to pack.

    Attributes:
        relative: The path below the firmware directory.
        link: The target of a link, empty for a file.
        wanted_by: The modules that name it, or a link to it.
    """

    relative: str
    link: str = ""
    wanted_by: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Firmware:
    """The firmware of a closure.

    Attributes:
        directory: A lib/firmware.
        files: What to pack, sorted by path.
        missing: (module, name) of all that is named and does not exist.
    """

    directory: Path
    files: tuple[FirmwareFile, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()

    @property
    def size_bytes(self) -> int:
        """The size of all files. Raises BadInput if one is gone."""
        return sum(
            _size_bytes(self.directory / file.relative) for file in self.files if not file.link
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each module of whose firmware something is missing."""
        missing: dict[str, list[str]] = {}
        for module, name in self.missing:
            missing.setdefault(module, []).append(name)
        return tuple(
            f"{module}: firmware {_named(names)} {'is' if len(names) == 1 else 'are'} "
            f"not in {self.directory}"
            for module, names in missing.items()
        )


NO_FIRMWARE = Firmware(directory=Path())


def firmware_names(
    tree: ModuleTree, modules: Iterable[ClosureModule], builtin: Iterable[str]
) -> Iterator[tuple[str, str]]:
    """Yield (module, firmware name or pattern) of modules.

    Those of loadable modules come from `.modinfo` in their files, those of builtin ones from
    modules.builtin.modinfo. Raises BadInput for a module file that is damaged.

    Args:
        tree: The module tree.
        modules: Its modules.
        builtin: Names of builtin modules.
    """
    builtin_names = set(builtin)
    for module in modules:
        for key, value in read_modinfo(module.path):
            if key == "firmware":
                yield module.name, value
    for name, value in tree.builtin_values("firmware"):
        if name in builtin_names:
            yield name, value


def find_firmware(
    tree: ModuleTree,
    modules: Sequence[ClosureModule],
    builtin: Iterable[str],
    directory: Path,
    when_missing: WhenMissing = "warning",
) -> Firmware:
    """Return the firmware that modules may load, with all links on the way to a file.

    Args:
        tree: The module tree.
        modules: Its modules.
        builtin: Names of builtin modules whose firmware counts too.
        directory: A lib/firmware.
        when_missing: Whether missing firmware is a warning or an error.

    Raises:
        BadInput: For a directory that does not exist, and with `error` for missing firmware. Also
            for a chain of links that leaves the directory or does not end.
    """
    if not directory.is_dir():
        raise BadInput(
            f"no firmware directory {directory}",
            Evidence(expected="a directory such as lib/firmware", where=(str(directory),)),
        )
    places = [f"updates/{tree.release}", "updates", tree.release, ""]
    search = _Search(directory, [place for place in places if (directory / place).is_dir()])
    firmware = search.firmware(firmware_names(tree, modules, builtin))
    if firmware.missing and when_missing == "error":
        _refuse_missing(firmware)
    return firmware


class _Search:
    """Looks in the places of a firmware directory."""

    def __init__(self, directory: Path, places: Sequence[str]) -> None:
        self._directory = directory
        self._places = places
        # The path of each link that was met → its target.
        self._links: dict[str, str] = {}

    def firmware(self, names: Iterable[tuple[str, str]]) -> Firmware:
        """Return the firmware for the (module, name or pattern) pairs."""
        wanted_by: dict[str, dict[str, None]] = {}
        missing: dict[tuple[str, str], None] = {}
        for module, name in names:
            found = self._files(name)
            if not found:
                missing[module, name] = None
            for path in found:
                wanted_by.setdefault(path, {})[module] = None
        files = (
            FirmwareFile(
                relative=path, link=self._links.get(path, ""), wanted_by=tuple(wanted_by[path])
            )
            for path in sorted(wanted_by)
        )
        return Firmware(directory=self._directory, files=tuple(files), missing=tuple(missing))

    def _files(self, name: str) -> list[str]:
        """Return the paths of all that a name or pattern takes, links included."""
        for place in self._places:
            found: list[str] = []
            for path in self._matching(place, name) if is_pattern(name) else [f"{place}/{name}"]:
                found += self._with_suffix(path.lstrip("/"))
            if found:
                return found
        return []

    def _matching(self, place: str, pattern: str) -> Iterator[str]:
        """Yield the names, without their compression's suffix, that a pattern means."""
        fits = pattern_regex(pattern).fullmatch
        base = self._directory / place
        # A star matches slashes too (fnmatch(3) without flags): look at all that is below the
        # literal beginning.
        fixed = PurePosixPath(literal_parts(pattern)[0] + "x").parent
        found = set()
        for parent, _, files in os.walk(base / fixed):
            below = Path(parent).relative_to(base)
            for file in files:
                relative = str(below / file)
                uncompressed = next(
                    relative.removesuffix(suffix)
                    for suffix in reversed(_SUFFIXES)
                    if relative.endswith(suffix)
                )
                if fits(uncompressed):
                    found.add(f"{place}/{uncompressed}")
        yield from sorted(found)

    def _with_suffix(self, path: str) -> list[str]:
        for suffix in _SUFFIXES:
            if found := self._chain(path + suffix):
                return found
        return []

    def _chain(self, path: str) -> list[str]:
        """Return a path, the links that it goes through, and the file; nothing without a file."""
        links: list[str] = []
        here, ahead = PurePosixPath(), path.split("/")
        while ahead:
            part = ahead.pop(0)
            if part == "..":
                if not here.parts:
                    raise self._bad_link(path, links)
                here = here.parent
                continue
            here /= part
            text = self._link(here)
            if text is None:
                continue
            links.append(str(here))
            if text.startswith("/") or len(links) > _MOST_LINKS:
                raise self._bad_link(path, links)
            here, ahead = here.parent, [*text.split("/"), *ahead]
        return [*links, str(here)] if (self._directory / here).is_file() else []

    def _link(self, path: PurePosixPath) -> str | None:
        """Return a link's text, None for what is none; known ones are in `_links`."""
        try:
            text = self._links[str(path)] = str((self._directory / path).readlink())
        except OSError:
            return None
        return text

    def _bad_link(self, path: str, links: Sequence[str]) -> BadInput:
        return BadInput(
            f"the firmware {path} is a link that leads nowhere in {self._directory}",
            Evidence(
                expected=f"at most {_MOST_LINKS} links, each to a place in the directory",
                seen=" → ".join([*links[:_MOST_NAMED], self._links.get(links[-1], "")])
                if links
                else path,
                where=(str(self._directory / path),),
            ),
        )


def _named(names: Sequence[str]) -> str:
    """Return names for people, some thousands as a few and how many more."""
    if len(names) <= _MOST_NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_MOST_NAMED])} and {len(names) - _MOST_NAMED} more"


def _refuse_missing(firmware: Firmware) -> NoReturn:
    raise BadInput(
        f"{len(firmware.missing)} firmware files are missing",
        Evidence(
            expected="in the firmware directory all that the modules name",
            seen=_named([f"{name} ({module})" for module, name in firmware.missing]),
            where=(str(firmware.directory),),
            next_step="put them there, or let missing firmware be a warning",
        ),
    )


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise BadInput(
            f"the firmware {path.name} cannot be read",
            Evidence(seen=str(error.strerror), where=(str(path),)),
        ) from None
