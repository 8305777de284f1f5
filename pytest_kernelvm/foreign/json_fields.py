"""JSON that others wrote, read field by field; each error names the place."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.printable import printable_line

# include/uapi/linux/limits.h
NAME_MAX, PATH_MAX = 255, 4096
_SHOWN_CHARACTERS = 80
SHA256 = r"[0-9a-f]{64}"
# One line: no line ends, and no characters that control a terminal.
LINE = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]*"
_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Malformed(BadInput):
    """What others wrote, or a part of it, is not valid.

    Attributes:
        reason: The fault in one line, for messages that say themselves what was read.
    """

    def __init__(self, summary: str, evidence: Evidence | None = None, reason: str = "") -> None:
        """Make the error.

        Args:
            summary: As for BadInput.
            evidence: As for BadInput.
            reason: The fault in one line; empty for the summary.
        """
        super().__init__(summary, evidence)
        self.reason = printable_line(reason) if reason else self.summary

    def __reduce__(self) -> tuple[type[Malformed], tuple[str, Evidence, str]]:  # type: ignore[override]
        return type(self), (self.summary, self.evidence, self.reason)


def parse_json(data: bytes | str, where: str = "", *, most_bytes: int | None = None) -> Any:
    """Return what a JSON text says.

    Raises Malformed for what is no JSON, has a name twice, has NaN, or is nested too deeply.

    Args:
        data: The text, in UTF-8.
        where: Its file, perhaps with the line, for errors.
        most_bytes: The largest length of a text that is read; None for any.
    """
    if most_bytes is not None and len(data) > most_bytes:
        _refuse_json(f"more than {most_bytes} bytes", where)
    try:
        text = data.decode() if isinstance(data, bytes) else data
        return json.loads(text, object_pairs_hook=_names_once, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        _refuse_json("not UTF-8", where)
    except RecursionError:
        _refuse_json("nested too deeply", where)
    # int() raises a ValueError for a number with too many digits.
    except ValueError as error:
        _refuse_json(f"no JSON: {error}", where)


def _refuse_json(seen: str, where: str) -> NoReturn:
    places = (where,) if where else ()
    evidence = Evidence(expected="JSON", seen=seen[:200], where=places)
    raise Malformed("a file is damaged", evidence, reason=seen[:_SHOWN_CHARACTERS]) from None


def _names_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is given twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def relative_name(text: object) -> str:
    """Return a text that has to be the path of a file below a directory, without . and .. in it.

    Args:
        text: What a JSON file has there, of any type.

    Raises:
        Malformed: If it is no such path.
    """
    if isinstance(text, str) and "\0" not in text and len(text) < PATH_MAX:
        # This is called for the thousands of files of a kernel: no loop over the parts.
        inside = f"/{text}/"
        if not ("//" in inside or "/./" in inside or "/../" in inside):
            with contextlib.suppress(UnicodeEncodeError):
                if text.isascii() or len(os.fsencode(text)) < PATH_MAX:
                    return text
    raise Malformed(f"{_shown(text)} is no file below an entry")


def file_name(text: object) -> str:
    """Return a text that has to be the name of a file, printable and without a directory.

    Args:
        text: What a JSON file has there, of any type.

    Raises:
        Malformed: If it is no such name.
    """
    name = relative_name(text)
    if "/" in name or len(os.fsencode(name)) > NAME_MAX or not name.isprintable():
        raise Malformed(f"{_shown(name)} is no name of a file")
    return name


def printable_text(text: object, what: str, *, most: int = 500) -> str:
    """Return a text that has to be one printable line.

    Args:
        text: The text.
        what: What it is called in the error.
        most: The largest number of characters.

    Raises:
        Malformed: If it has control characters or is too long.
    """
    if not isinstance(text, str) or not text.isprintable() or len(text) > most:
        raise Malformed(f"{what} is {_shown(text)}, not a line of text")
    return text


def _shown(value: object) -> str:
    shown = ascii(value)
    return shown if len(shown) <= _SHOWN_CHARACTERS else f"{shown[:_SHOWN_CHARACTERS]}…"


class Fields:
    """The fields of one JSON object. Each is read once; `done` refuses those that were not read.

    All methods raise Malformed, with file and field.
    """

    def __init__(
        self, given: Any, where: str = "", path: str = "", defaults: Mapping[str, Any] = _NOTHING
    ) -> None:
        """Take an object.

        Args:
            given: What JSON has; it must be an object.
            where: The file, for errors.
            path: The place of the object in it, empty for the outermost one.
            defaults: The values of fields that need not be there.
        """
        self._where = where
        self._path = path
        if not isinstance(given, dict):
            raise self._bad(path or "it", "an object", given)
        self._left: dict[str, Any] = {**defaults, **given}

    def take(self, name: str) -> Any:
        """Return a field as it is.

        Like all methods that read a field it raises Malformed if the field is not there.

        Args:
            name: The field.
        """
        if name not in self._left:
            reason = f"{self._named(name)} is not there"
            raise self.refused(name, "that it is there", "nothing", reason)
        return self._left.pop(name)

    def refused(self, name: str, expected: str, seen: str, reason: str = "") -> Malformed:
        """Return the error about a field.

        Args:
            name: The field.
            expected: What it should be.
            seen: What it is.
            reason: All of it in one line; empty for a line made of the others.
        """
        named = self._named(name)
        return Malformed(
            f"{named} is not what it can be",
            Evidence(expected=expected, seen=seen, where=(self._where,) if self._where else ()),
            reason or f"{named} is {seen}, not {expected}",
        )

    def _bad(self, name: str, expected: str, value: Any) -> Malformed:
        return self.refused(name, expected, _shown(value))

    def _named(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path and name != self._path else name

    def text(self, name: str, *, pattern: str = LINE, shape: str, most: int = 4096) -> str:
        """Return a text.

        Args:
            name: The field.
            pattern: A regular expression for all of it.
            shape: The pattern in words, for the error.
            most: The largest number of characters.
        """
        value = self.take(name)
        if not isinstance(value, str) or len(value) > most or not re.fullmatch(pattern, value):
            raise self._bad(name, shape, value)
        return value

    def printable(self, name: str, *, most: int = 500) -> str:
        """Return a printable text of one line.

        Args:
            name: The field.
            most: The largest number of characters.
        """
        value = self.take(name)
        if not isinstance(value, str) or len(value) > most or not value.isprintable():
            raise self._bad(name, f"a line of at most {most} characters", value)
        return value

    def choice(self, name: str, allowed: Iterable[str]) -> str:
        """Return one of a few texts.

        Args:
            name: The field.
            allowed: The texts.
        """
        value = self.take(name)
        known = tuple(allowed)
        if not isinstance(value, str) or value not in known:
            raise self._bad(name, f"one of {', '.join(map(repr, known))}", value)
        return value

    def number(self, name: str, least: float, most: float) -> float:
        """Return a number.

        Args:
            name: The field.
            least: The smallest value.
            most: The largest value.
        """
        return float(self._within(name, self.take(name), least, most, (int, float)))

    def whole(self, name: str, least: int, most: int) -> int:
        """Return a whole number.

        Args:
            name: The field.
            least: The smallest value.
            most: The largest value.
        """
        return int(self._within(name, self.take(name), least, most, (int,)))

    def _within(
        self, name: str, value: Any, least: float, most: float, types: tuple[type, ...]
    ) -> Any:
        # In Python, bool is a subclass of int.
        fits = isinstance(value, types) and not isinstance(value, bool)
        if not fits or not math.isfinite(value) or not least <= value <= most:
            kind = "a whole number" if types == (int,) else "a number"
            raise self._bad(name, f"{kind} from {least:g} to {most:g}", value)
        return value

    def flag(self, name: str) -> bool:
        """Return true or false."""
        value = self.take(name)
        if not isinstance(value, bool):
            raise self._bad(name, "true or false", value)
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """Return an object whose values are not yet checked."""
        value = self.take(name)
        if not isinstance(value, dict):
            raise self._bad(name, "an object", value)
        return value

    def fields(self, name: str) -> Fields:
        """Return the fields of an object in this one."""
        return Fields(self.take(name), self._where, self._named(name))

    def fields_or_none(self, name: str) -> Fields | None:
        """Return the fields of an object in this one, None where there is null."""
        return None if self.is_null(name) else self.fields(name)

    def items(self, name: str, most: int) -> list[Any]:
        """Return a list whose items are not yet checked.

        Args:
            name: The field.
            most: The largest number of items.
        """
        value = self.take(name)
        if not isinstance(value, list) or len(value) > most:
            shown = f"a list of {len(value)}" if isinstance(value, list) else value
            raise self._bad(name, f"a list of at most {most}", shown)
        return value

    def objects(self, name: str, most: int) -> list[Fields]:
        """Return the fields of each object in a list.

        Args:
            name: The field.
            most: The largest number of objects.
        """
        path = self._named(name)
        return [
            Fields(each, self._where, f"{path}[{number}]")
            for number, each in enumerate(self.items(name, most))
        ]

    def whole_numbers(self, name: str, least: int, most: int, count: int) -> tuple[int, ...]:
        """Return a list of whole numbers.

        Args:
            name: The field.
            least: The smallest number.
            most: The largest number.
            count: The largest length of the list.
        """
        return tuple(
            self._within(f"{name}[{number}]", value, least, most, (int,))
            for number, value in enumerate(self.items(name, count))
        )

    def numbers_by_name(self, name: str, pattern: str, most: int) -> dict[str, int]:
        """Return an object whose values are whole numbers of 32 bits.

        Args:
            name: The field.
            pattern: A regular expression for its names.
            most: The largest number of names.
        """
        found = self.fields(name)
        if len(found._left) > most:
            raise self.refused(name, f"at most {most} names", f"{len(found._left)}")
        for key in found._left:
            if not re.fullmatch(pattern, key):
                raise self._bad(name, "names of C", key)
        return {key: found.whole(key, -(1 << 31), (1 << 32) - 1) for key in list(found._left)}

    @property
    def names(self) -> tuple[str, ...]:
        """The fields that were not yet read."""
        return tuple(self._left)

    def has(self, name: str) -> bool:
        """Return whether a field is there and was not yet read."""
        return name in self._left

    def is_null(self, name: str) -> bool:
        """Return whether a field is null; if so, this reads it."""
        if self._left.get(name, 0) is None:
            del self._left[name]
            return True
        return False

    def done(self) -> None:
        """Raise Malformed if there are fields that were not read."""
        if self._left:
            name = next(iter(self._left))
            raise self.refused(
                name if re.fullmatch(r"\w{1,40}", name) else "a field",
                "no such field",
                _shown(name),
                f"{_shown(name)} is no field of {self._path or 'it'}",
            )
