"""The text files of a module tree, read line by line with complaints that name file and line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.files import regular_content
from pytest_kernelvm.modules.names import MODULE_SUFFIXES, name_of_file

_FIELD = re.compile(r"([^.=\0]+)\.([^=\0]*)=([^\0]*)\0")
# A distribution's modules.alias has 2 MiB.
MOST_BYTES = 256 << 20
_RUN_DEPMOD = "run depmod again for this tree"


@dataclass(frozen=True, kw_only=True, slots=True)
class Softdep:
    """What a module's authors or users want loaded with it.

    pre, post: names or aliases to load before and after it, as written.
    ignored: names that stand behind neither `pre:` nor `post:`; kmod drops them silently
        (libkmod-config.c, kmod_config_add_softdep).
    """

    pre: tuple[str, ...] = ()
    post: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def joined(self, other: Softdep) -> Softdep:
        """Return this softdep with another one's names behind its own."""
        return Softdep(
            pre=self.pre + other.pre,
            post=self.post + other.post,
            ignored=self.ignored + other.ignored,
        )


def bad_line(path: Path, number: int, *, expected: str, seen: str) -> BadInput:
    """Return the error for one line of a metadata file.

    number: counted from 1. expected, seen: one sentence each.
    """
    return BadInput(
        f"{path.name} is damaged",
        Evidence(expected=expected, seen=seen, where=(f"{path}:{number}",), next_step=_RUN_DEPMOD),
    )


class Metadata:
    """The metadata files of a module tree: those on the disk, or given ones in their place.

    directory: lib/modules/RELEASE. given: all files by name, instead of those on the disk.
    """

    def __init__(self, directory: Path, given: Mapping[str, bytes] | None = None) -> None:
        self.directory = directory
        self._given = given

    def path(self, name: str) -> Path:
        """Return where a file is, or would be, for complaints."""
        return self.directory / name

    def exists(self, name: str) -> bool:
        """Whether there is such a file, or something else in its place that cannot be read."""
        return self.path(name).exists() if self._given is None else name in self._given

    def data(self, name: str) -> bytes:
        """Return a file's content, empty without the file. Raises BadInput if it cannot be read."""
        return read_bytes(self.path(name)) if self._given is None else self._given.get(name, b"")

    def text(self, name: str) -> str:
        """Return a text file's content, empty without the file; see checked_text."""
        return checked_text(self.path(name), self.data(name))


def read_bytes(path: Path) -> bytes:
    """Return the content of a metadata file; empty if there is no such file.

    Raises BadInput if it cannot be read.
    """
    try:
        return regular_content(path, MOST_BYTES)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise BadInput(
            f"cannot read {path.name}", Evidence(seen=str(error.strerror), where=(str(path),))
        ) from None


def checked_text(path: Path, data: bytes) -> str:
    """Return a metadata file's content as text.

    Raises BadInput, with the line, for what is not UTF-8, holds a NUL byte (what a file system
    leaves after a crash) or does not end with a newline.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        seen = f"the byte {data[error.start]:#04x}"
        raise bad_line(path, line, expected="UTF-8", seen=seen) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise bad_line(path, line, expected="text", seen="a NUL byte")
    if text and not text.endswith("\n"):
        raise bad_line(
            path,
            text.count("\n") + 1,
            expected="a newline at the end of the file",
            seen="the file ends in the middle of a line",
        )
    return text


def softdep_lines(path: Path, text: str) -> tuple[tuple[str, Softdep], ...]:
    """Return the (module name, softdep) of each line of modules.softdep.

    Raises BadInput for a line that is not `softdep MODULE …`. Source: modprobe.d(5).
    """
    return tuple((name, softdep_of(words)) for name, words in _directives(path, text, "softdep"))


def weakdep_lines(path: Path, text: str) -> dict[str, tuple[str, ...]]:
    """Return modules.weakdep (kmod 33) as module name → the names on all its lines.

    Raises BadInput for a line that is not `weakdep MODULE …`. Source: modprobe.d(5).
    """
    return weakdeps_of(_directives(path, text, "weakdep"))


def weakdeps_of(directives: Iterator[tuple[str, list[str]]]) -> dict[str, tuple[str, ...]]:
    """Return module name → weakdeps, of (module name, words behind it) pairs."""
    weak: dict[str, tuple[str, ...]] = {}
    for module, names in directives:
        weak[module] = (*weak.get(module, ()), *names)
    return weak


def softdep_of(words: Iterable[str]) -> Softdep:
    """Return the softdep of one line's words behind the module's name."""
    parts: dict[str, list[str]] = {"pre:": [], "post:": [], "": []}
    mode = ""
    for word in words:
        if word in ("pre:", "post:"):
            mode = word
        else:
            parts[mode].append(word)
    return Softdep(pre=tuple(parts["pre:"]), post=tuple(parts["post:"]), ignored=tuple(parts[""]))


def union_of_softdeps(lines: Iterable[tuple[str, Softdep]]) -> dict[str, Softdep]:
    """Return module name → all its lines together, of (module name, softdep) pairs."""
    union: dict[str, Softdep] = {}
    for module, softdep in lines:
        known = union.get(module)
        union[module] = softdep if known is None else known.joined(softdep)
    return union


def builtin_lines(path: Path, text: str) -> dict[str, str]:
    """Return modules.builtin as module name → path below lib/modules/RELEASE.

    A name that stands there twice keeps its first path. Raises BadInput for a line that names no
    module file. Source: the kernel's Documentation/kbuild/kbuild.rst.
    """
    builtin: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line:
            continue
        if not line.endswith(MODULE_SUFFIXES):
            raise bad_line(path, number, expected="the path of a .ko file", seen=repr(line))
        builtin.setdefault(name_of_file(line), line)
    return builtin


def modinfo_fields(path: Path, data: bytes) -> list[tuple[str, str, str]]:
    """Return (module name, key, value) of modules.builtin.modinfo.

    Raises BadInput for an entry that is not `NAME.KEY=VALUE`, or that has no NUL byte behind it.
    Source: kmod, libkmod-builtin.c.
    """
    # Descriptions are free text of many authors; a wrong byte in one matters to nobody.
    text = data.decode(errors="replace")
    found = _FIELD.findall(text)
    if text.count("\0") != len(found) or (text and not text.endswith("\0")):
        raise _bad_entry(path, text)
    return [(name.replace("-", "_"), key, value) for name, key, value in found]


def _bad_entry(path: Path, text: str) -> BadInput:
    *entries, rest = text.split("\0")
    for number, entry in enumerate(entries, 1):
        if not _FIELD.fullmatch(f"{entry}\0"):
            return bad_line(path, number, expected="NAME.KEY=VALUE", seen=repr(entry))
    return bad_line(
        path,
        len(entries) + 1,
        expected="a NUL byte behind every entry",
        seen=f"the file ends in the middle of {rest!r}",
    )


def _directives(path: Path, text: str, word: str) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(text.split("\n"), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] != word or len(words) < 2:
            raise bad_line(path, number, expected=f"{word} MODULE …", seen=repr(line))
        yield words[1].replace("-", "_"), words[2:]
