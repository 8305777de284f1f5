"""The text files of a module tree, read line by line with complaints that name file and line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.modules.names import MODULE_SUFFIXES, name_of_file

_RUN_DEPMOD = "run depmod again for this tree"


@dataclass(frozen=True, kw_only=True, slots=True)
class Softdep:
    """What a module's authors want loaded with it; all its lines together.

    pre, post: names or aliases to load before and after it, as written.
    ignored: names that stand behind neither `pre:` nor `post:`; kmod drops them silently
        (libkmod-config.c, kmod_config_add_softdep).
    """

    pre: tuple[str, ...] = ()
    post: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()


def bad_line(path: Path, number: int, *, expected: str, seen: str) -> BadInput:
    """Return the error for one line of a metadata file.

    number: counted from 1. expected, seen: one sentence each.
    """
    return BadInput(
        f"{path.name} is damaged",
        Evidence(expected=expected, seen=seen, where=(f"{path}:{number}",), next_step=_RUN_DEPMOD),
    )


def read_bytes(path: Path) -> bytes:
    """Return the content of a metadata file; empty if there is no such file.

    Raises BadInput if it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise BadInput(
            f"cannot read {path.name}", Evidence(seen=str(error.strerror), where=(str(path),))
        ) from None


def read_text(path: Path) -> str:
    """Return the content of a metadata file; empty if there is no such file.

    Raises BadInput, with the line, for what is not UTF-8, holds a NUL byte (what a file system
    leaves after a crash) or does not end with a newline.
    """
    data = read_bytes(path)
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


def softdep_lines(path: Path) -> dict[str, Softdep]:
    """Return modules.softdep as module name → the union of its lines.

    Raises BadInput for a line that is not `softdep MODULE …`. Source: modprobe.d(5).
    """
    return softdeps_of(_directives(path, "softdep"))


def weakdep_lines(path: Path) -> dict[str, tuple[str, ...]]:
    """Return modules.weakdep (kmod 33) as module name → the names on all its lines.

    Raises BadInput for a line that is not `weakdep MODULE …`. Source: modprobe.d(5).
    """
    return weakdeps_of(_directives(path, "weakdep"))


def weakdeps_of(directives: Iterator[tuple[str, list[str]]]) -> dict[str, tuple[str, ...]]:
    """Return module name → weakdeps, of (module name, words behind it) pairs."""
    weak: dict[str, tuple[str, ...]] = {}
    for module, names in directives:
        weak[module] = (*weak.get(module, ()), *names)
    return weak


def softdeps_of(directives: Iterator[tuple[str, list[str]]]) -> dict[str, Softdep]:
    """Return module name → softdeps, of (module name, words behind it) pairs."""
    parts: dict[str, dict[str, list[str]]] = {}
    for module, words in directives:
        part = parts.setdefault(module, {"pre:": [], "post:": [], "": []})
        mode = ""
        for word in words:
            if word in ("pre:", "post:"):
                mode = word
            else:
                part[mode].append(word)
    return {
        module: Softdep(pre=tuple(part["pre:"]), post=tuple(part["post:"]), ignored=tuple(part[""]))
        for module, part in parts.items()
    }


def builtin_lines(path: Path) -> dict[str, str]:
    """Return modules.builtin as module name → path below lib/modules/RELEASE.

    A name that stands there twice keeps its first path. Raises BadInput for a line that names no
    module file. Source: the kernel's Documentation/kbuild/kbuild.rst.
    """
    builtin: dict[str, str] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line:
            continue
        if not line.endswith(MODULE_SUFFIXES):
            raise bad_line(path, number, expected="the path of a .ko file", seen=repr(line))
        builtin.setdefault(name_of_file(line), line)
    return builtin


def modinfo_fields(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (module name, key, value) of modules.builtin.modinfo; nothing if there is no such file.

    Raises BadInput for an entry that is not `NAME.KEY=VALUE`, or that has no NUL byte behind it.
    Source: kmod, libkmod-builtin.c.
    """
    entries = read_bytes(path).split(b"\0")
    if entries.pop():
        raise bad_line(
            path,
            len(entries) + 1,
            expected="a NUL byte behind every entry",
            seen="the file ends in the middle of an entry",
        )
    for number, entry in enumerate(entries, 1):
        # Descriptions are free text of many authors; a wrong byte in one matters to nobody.
        field, equals, value = entry.decode(errors="replace").partition("=")
        name, dot, key = field.partition(".")
        if not (equals and dot and name):
            raise bad_line(path, number, expected="NAME.KEY=VALUE", seen=repr(entry))
        yield name.replace("-", "_"), key, value


def _directives(path: Path, word: str) -> Iterator[tuple[str, list[str]]]:
    for number, line in enumerate(read_text(path).split("\n"), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] != word or len(words) < 2:
            raise bad_line(path, number, expected=f"{word} MODULE …", seen=repr(line))
        yield words[1].replace("-", "_"), words[2:]
