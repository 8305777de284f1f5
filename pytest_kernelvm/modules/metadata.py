"""The text files of a module tree, read line by line; errors name file and line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.files import regular_content
from pytest_kernelvm.modules.names import MODULE_SUFFIXES, name_of_file

_FIELD = re.compile(r"([^.=\0]+)\.([^=\0]*)=([^\0]*)\0")
# A distribution's modules.alias has 2 MiB.
MOST_BYTES = 256 << 20
_RUN_DEPMOD = "run depmod again for this tree"


@dataclass(frozen=True, kw_only=True, slots=True)
class Softdep:
    """What the author or the user of a module wants loaded with it.

    Attributes:
        pre: Names or aliases to load before it, as written.
        post: Names or aliases to load behind it, as written.
        ignored: Names that stand behind neither `pre:` nor `post:`; kmod ignores them silently
            (libkmod-config.c, kmod_config_add_softdep).
    """

    pre: tuple[str, ...] = ()
    post: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def joined(self, other: Softdep) -> Softdep:
        """Return this softdep with the names of another one behind its own.

        Args:
            other: Another one of the same module.
        """
        return Softdep(
            pre=self.pre + other.pre,
            post=self.post + other.post,
            ignored=self.ignored + other.ignored,
        )


def refuse_line(path: Path, number: int, *, expected: str, seen: str) -> NoReturn:
    """Raise the error for one line of a metadata file.

    Args:
        path: The file.
        number: The line, counted from 1.
        expected: What it should be, in a few words.
        seen: What it is.

    Raises:
        BadInput: Always.
    """
    raise BadInput(
        f"{path.name} is damaged",
        Evidence(expected=expected, seen=seen, where=(f"{path}:{number}",), next_step=_RUN_DEPMOD),
    ) from None


class Metadata:
    """The metadata files of a module tree, on the disk or given in its place.

    Attributes:
        directory: The tree.
    """

    def __init__(self, directory: Path, given: Mapping[str, bytes] | None = None) -> None:
        """Read nothing yet.

        Args:
            directory: A lib/modules/RELEASE.
            given: The content of all files by name; None for the files on the disk.
        """
        self.directory = directory
        self._given = given

    def path(self, name: str) -> Path:
        """Return where a file is, or would be, for errors.

        Args:
            name: Such as `modules.dep`.
        """
        return self.directory / name

    def exists(self, name: str) -> bool:
        """Return whether there is such a file, readable or not.

        Args:
            name: Such as `modules.dep`.
        """
        return self.path(name).exists() if self._given is None else name in self._given

    def data(self, name: str) -> bytes:
        """Return the content of a file, empty without it. Raises BadInput if it is unreadable.

        Args:
            name: Such as `modules.dep.bin`.
        """
        return read_bytes(self.path(name)) if self._given is None else self._given.get(name, b"")

    def text(self, name: str) -> str:
        """Return the content of a text file, empty without it; see `checked_text`.

        Args:
            name: Such as `modules.dep`.
        """
        return checked_text(self.path(name), self.data(name))


def read_bytes(path: Path) -> bytes:
    """Return the content of a metadata file; empty if there is no such file.

    Args:
        path: The file.

    Raises:
        BadInput: If it cannot be read.
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
    """Return the content of a metadata file as text.

    Raises BadInput, with the line, if it is not UTF-8, has a NUL byte (as some file systems leave
    after a crash), or does not end with a newline.

    Args:
        path: The file, for errors.
        data: Its content.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        seen = f"the byte {data[error.start]:#04x}"
        refuse_line(path, line, expected="UTF-8", seen=seen)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        refuse_line(path, line, expected="text", seen="a NUL byte")
    if text and not text.endswith("\n"):
        refuse_line(
            path,
            text.count("\n") + 1,
            expected="a newline at the end of the file",
            seen="the file ends in the middle of a line",
        )
    return text


def softdep_lines(path: Path, text: str) -> tuple[tuple[str, Softdep], ...]:
    """Return the (module, softdep) of each line of modules.softdep.

    Raises BadInput for a line that is not `softdep MODULE …`. Source: modprobe.d(5).

    Args:
        path: The file, for errors.
        text: Its content.
    """
    return tuple((name, softdep_of(words)) for name, words in _directives(path, text, "softdep"))


def weakdep_lines(path: Path, text: str) -> dict[str, tuple[str, ...]]:
    """Return a modules.weakdep (kmod 33) as module → the names on all its lines.

    Raises BadInput for a line that is not `weakdep MODULE …`. Source: modprobe.d(5).

    Args:
        path: The file, for errors.
        text: Its content.
    """
    return weakdeps_of(_directives(path, text, "weakdep"))


def weakdeps_of(directives: Iterator[tuple[str, list[str]]]) -> dict[str, tuple[str, ...]]:
    """Return module → weakdeps.

    Args:
        directives: (module, the words behind it) of each line.
    """
    weak: dict[str, tuple[str, ...]] = {}
    for module, names in directives:
        weak[module] = (*weak.get(module, ()), *names)
    return weak


def softdep_of(words: Iterable[str]) -> Softdep:
    """Return the softdep of one line.

    Args:
        words: The words behind the name of the module.
    """
    parts: dict[str, list[str]] = {"pre:": [], "post:": [], "": []}
    mode = ""
    for word in words:
        if word in ("pre:", "post:"):
            mode = word
        else:
            parts[mode].append(word)
    return Softdep(pre=tuple(parts["pre:"]), post=tuple(parts["post:"]), ignored=tuple(parts[""]))


def union_of_softdeps(lines: Iterable[tuple[str, Softdep]]) -> dict[str, Softdep]:
    """Return module → all its softdep lines together.

    Args:
        lines: (module, softdep) of each line.
    """
    union: dict[str, Softdep] = {}
    for module, softdep in lines:
        known = union.get(module)
        union[module] = softdep if known is None else known.joined(softdep)
    return union


def builtin_lines(path: Path, text: str) -> dict[str, str]:
    """Return a modules.builtin as module → path below lib/modules/RELEASE.

    Of a name that comes twice the first path counts. Raises BadInput for a line that names no
    module file. Source: the kernel's Documentation/kbuild/kbuild.rst.

    Args:
        path: The file, for errors.
        text: Its content.
    """
    builtin: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line:
            continue
        if not line.endswith(MODULE_SUFFIXES):
            refuse_line(path, number, expected="the path of a .ko file", seen=repr(line))
        builtin.setdefault(name_of_file(line), line)
    return builtin


def modinfo_fields(path: Path, data: bytes) -> list[tuple[str, str, str]]:
    """Return the (module, key, value) entries of a modules.builtin.modinfo.

    Raises BadInput for an entry that is not `NAME.KEY=VALUE`, or has no NUL byte behind it.
    Source: kmod, libkmod-builtin.c.

    Args:
        path: The file, for errors.
        data: Its content.
    """
    # Descriptions are free text; a wrong byte in one does not matter.
    text = data.decode(errors="replace")
    found = _FIELD.findall(text)
    if text.count("\0") != len(found) or (text and not text.endswith("\0")):
        _refuse_entry(path, text)
    return [(name.replace("-", "_"), key, value) for name, key, value in found]


def _refuse_entry(path: Path, text: str) -> NoReturn:
    *entries, rest = text.split("\0")
    for number, entry in enumerate(entries, 1):
        if not _FIELD.fullmatch(f"{entry}\0"):
            refuse_line(path, number, expected="NAME.KEY=VALUE", seen=repr(entry))
    refuse_line(
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
            refuse_line(path, number, expected=f"{word} MODULE …", seen=repr(line))
        yield words[1].replace("-", "_"), words[2:]
