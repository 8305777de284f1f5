"""The settings of modprobe.d and of the kernel command line for modprobe."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.files import regular_content
from pytest_kernelvm.modules.metadata import MOST_BYTES, Softdep, softdep_of
from pytest_kernelvm.modules.names import OpenBracket, normalise

# modprobe.d(5). A file in an earlier one hides a file of the same name in a later one.
DIRECTORIES = (
    "etc/modprobe.d",
    "run/modprobe.d",
    "usr/local/lib/modprobe.d",
    "usr/lib/modprobe.d",
    "lib/modprobe.d",
)

# libkmod-config.c, KCMD_LINE_SIZE: kmod ignores what is behind.
_CMDLINE_CHARACTERS = 4095

_BLANKS = "\t "


@dataclass(frozen=True, kw_only=True, slots=True)
class SoftdepLine:
    """A softdep line of a user.

    Attributes:
        file: The base name of its file.
        module: A module or a pattern.
        softdep: What the line says.
    """

    file: str
    module: str
    softdep: Softdep


@dataclass(frozen=True, kw_only=True, slots=True)
class ModprobeD:
    """What modprobe.d and the command line of a guest say, in the order in which kmod reads it.

    Attributes:
        aliases: (pattern, module).
        options: (module or alias, parameters).
        blacklist: Modules.
        install: (module pattern, command).
        remove: (module pattern, command).
        softdeps: The softdep lines.
        weakdeps: (module pattern, names); kmod knows them from version 33 on.
        ignored: `FILE line N: …` for each line that kmod does not understand and ignores.
    """

    aliases: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    blacklist: tuple[str, ...] = ()
    install: tuple[tuple[str, str], ...] = ()
    remove: tuple[tuple[str, str], ...] = ()
    softdeps: tuple[SoftdepLine, ...] = ()
    weakdeps: tuple[tuple[str, tuple[str, ...]], ...] = ()
    ignored: tuple[str, ...] = ()

    def options_of(self, *names: str) -> str:
        """Return the parameters of a module, from all its lines.

        Args:
            names: The module, and the alias by which it was requested.
        """
        return " ".join(text for name, text in self.options if text and name in names)


NOTHING = ModprobeD()


def read_modprobe_d(paths: Iterable[Path] = (), *, cmdline: str = "") -> ModprobeD:
    """Return what files of modprobe.d and a kernel command line say.

    Raises BadInput for a path that does not exist or cannot be read. Source: modprobe.d(5); kmod,
    libkmod-config.c, kmod_config_new.

    Args:
        paths: Single files, and directories of which the *.conf and *.alias files count. All files
            are read in the order of their base names; of two with one name only the first one is.
        cmdline: A kernel command line, which is read last: `module.parameter=value` and
            `modprobe.blacklist=…`.
    """
    reader = _Reader()
    for name, path in sorted(_config_files(paths).items()):
        try:
            # kmod reads bytes; this way none of them is lost.
            content = regular_content(path, MOST_BYTES).decode(errors="surrogateescape")
        except OSError as error:
            _refuse_unreadable(path, error)
        reader.file(name, path, io.StringIO(content, newline=None).read())
    reader.cmdline(cmdline)
    return reader.found()


def modprobe_d_of_root(root: Path, *, cmdline: str = "") -> ModprobeD:
    """Return what the modprobe.d directories of a root directory say.

    Args:
        root: The root directory of a guest.
        cmdline: As for `read_modprobe_d`.
    """
    places = (root / name for name in DIRECTORIES)
    return read_modprobe_d((place for place in places if place.is_dir()), cmdline=cmdline)


def _config_files(paths: Iterable[Path]) -> dict[str, Path]:
    files: dict[str, Path] = {}
    for path in paths:
        try:
            found = sorted(path.iterdir()) if path.is_dir() else [path]
            if not path.exists():
                raise FileNotFoundError(2, "no such file or directory")
        except OSError as error:
            _refuse_unreadable(path, error)
        for file in found:
            if path.is_dir() and (
                file.name.startswith(".")
                or not file.name.endswith((".conf", ".alias"))
                or len(file.name) < len("x.conf")
                or file.is_dir()
            ):
                continue
            files.setdefault(file.name, file)
    return files


def _refuse_unreadable(path: Path, error: OSError) -> NoReturn:
    raise BadInput(
        f"cannot read {path.name}",
        Evidence(
            expected="a modprobe.d directory or a file of it",
            seen=str(error.strerror),
            where=(str(path),),
        ),
    ) from None


@dataclass(kw_only=True)
class _Reader:
    """Collects what lines say; each list has the order of reading."""

    aliases: list[tuple[str, str]] = field(default_factory=list)
    options: list[tuple[str, str]] = field(default_factory=list)
    blacklist: list[str] = field(default_factory=list)
    install: list[tuple[str, str]] = field(default_factory=list)
    remove: list[tuple[str, str]] = field(default_factory=list)
    softdeps: list[SoftdepLine] = field(default_factory=list)
    weakdeps: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)

    def found(self) -> ModprobeD:
        """Return what was collected."""
        return ModprobeD(
            aliases=tuple(self.aliases),
            options=tuple(self.options),
            blacklist=tuple(self.blacklist),
            install=tuple(self.install),
            remove=tuple(self.remove),
            softdeps=tuple(self.softdeps),
            weakdeps=tuple(self.weakdeps),
            ignored=tuple(self.ignored),
        )

    def file(self, name: str, path: Path, text: str) -> None:
        """Take the lines of a file."""
        for number, line in _joined_lines(text):
            words = line.lstrip(_BLANKS)
            if not words or line.startswith("#"):
                continue
            directive, rest = _first_word(words)
            try:
                self._directive(name, directive, rest)
            except (KeyError, ValueError, OpenBracket):
                self.ignored.append(
                    f"{path} line {number}: ignoring bad line starting with '{directive}'"
                )

    def _directive(self, file: str, directive: str, rest: str) -> None:
        """Take one line; raise KeyError, ValueError or OpenBracket if kmod would not."""
        name, text = _first_word(rest)
        if not name:
            raise ValueError(rest)
        module = normalise(name)
        if directive == "alias":
            target, _ = _first_word(text)
            if not target:
                raise ValueError(rest)
            self.aliases.append((module, normalise(target)))
        elif directive == "blacklist":
            self.blacklist.append(module)
        else:
            if not text:
                raise ValueError(rest)
            self._with_text[directive](module, text, file)

    @property
    def _with_text(self) -> dict[str, Callable[[str, str, str], None]]:
        return {
            "options": lambda name, text, _: self.options.append((name, text.replace("\t", " "))),
            "install": lambda name, text, _: self.install.append((name, text)),
            "remove": lambda name, text, _: self.remove.append((name, text)),
            "softdep": lambda name, text, file: self.softdeps.append(
                SoftdepLine(file=file, module=name, softdep=softdep_of(text.split()))
            ),
            "weakdep": lambda name, text, _: self.weakdeps.append((name, tuple(text.split()))),
        }

    def cmdline(self, text: str) -> None:
        """Take the words of a kernel's command line."""
        for name, parameter in cmdline_parameters(text):
            if name == "modprobe" and parameter.startswith("blacklist="):
                # Not normalised: kmod keeps the dashes in these names.
                self.blacklist.extend(parameter.partition("=")[2].split(","))
                continue
            try:
                self.options.append((normalise(name), parameter.replace("\t", " ")))
            except OpenBracket:
                self.ignored.append(f"kernel command line: ignoring bad option {name}")


def _joined_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (number of its last line, logical line).

    A backslash joins the next line; before anything else it vanishes. Source: kmod, shared/util.c,
    freadline_wrapped.
    """
    logical, number = "", 0
    for line in re.findall(r"(?:[^\\\n]|\\.|\\\n|\\\Z)+\n?|\n", text, re.DOTALL):
        number += line.count("\n")
        logical = re.sub(r"\\(.?)", lambda found: found[1].strip("\n"), line, flags=re.DOTALL)
        yield number, logical.removesuffix("\n")


def _first_word(text: str) -> tuple[str, str]:
    """Return a word and all behind the one blank that ends it, as strtok(3) does."""
    text = text.lstrip(_BLANKS)
    found = re.match(r"[^\t ]*", text)
    assert found is not None
    return found[0], text[found.end() + 1 :]


def cmdline_parameters(text: str) -> Iterator[tuple[str, str]]:
    """Yield (module, `parameter` or `parameter=value`) of a kernel command line.

    A value may have blanks between quotes. A whole `"module.parameter=value"` may be in quotes,
    which some bootloaders make of quotes around the value; it is given as `parameter="value"`.
    Source: kmod, libkmod-config.c, kmod_config_parse_kcmdline.

    Args:
        text: The command line; kmod reads its first 4095 characters.
    """
    reader = _CmdlineReader()
    for character in f"{text[:_CMDLINE_CHARACTERS]}\0":
        if character == '"':
            reader.quote()
        elif character in "\0 \n\t\v\f\r":
            yield from reader.blank(character)
        elif character == ".":
            reader.dot()
        elif character == "=":
            reader.equals()
        else:
            reader.parts[-1] += character


class _CmdlineReader:
    """The states of kmod's reader; parts: the module, parameter and value read so far."""

    def __init__(self) -> None:
        self.parts = [""]
        self._ignore = self._inside = self._wrapped = False

    def quote(self) -> None:
        """Take a quote: it may open the whole, or stand anywhere in the value."""
        self._inside = not self._inside
        if len(self.parts) == 3:
            self.parts[-1] += '"'
        elif self._inside and self.parts == [""]:
            self._wrapped = True
        else:
            self._ignore = True

    def dot(self) -> None:
        """Take a dot: the module ends; a parameter has none."""
        if len(self.parts) == 1:
            self.parts.append("")
        elif len(self.parts) == 2:
            self._ignore = True
        else:
            self.parts[-1] += "."

    def equals(self) -> None:
        """Take an equals sign: the parameter ends; a module has none."""
        if len(self.parts) == 1:
            self._ignore = True
        elif len(self.parts) == 2:
            self.parts.append("")
        else:
            self.parts[-1] += "="

    def blank(self, character: str) -> Iterator[tuple[str, str]]:
        """Take a blank or the end: yield what is complete."""
        if self._inside:
            if len(self.parts) == 3:
                self.parts[-1] += character
            else:
                self._ignore = True
            return
        if not self._ignore and len(self.parts) > 1:
            quote = '"' if self._wrapped else ""
            module, parameter, *value = self.parts
            yield module, "".join([parameter, *(f"={quote}{text}" for text in value)])
        self.parts = [""]
        self._ignore = self._wrapped = False
