"""JSON that others wrote: read into values of known types, or refused with a reason in words."""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any, NoReturn

# include/uapi/linux/limits.h
NAME_MAX, PATH_MAX = 255, 4096
# So much of what is wrong is shown.
_SHOWN = 60


class Malformed(ValueError):
    """JSON, or a part of it, that is not what it has to be; the text says why."""


def read_json(data: bytes, *, most_bytes: int) -> Any:
    """Return the value of a JSON text that may be hostile.

    most_bytes: a longer text is not read. Raises Malformed: also for what json.loads takes and JSON
    does not know (NaN), for names given twice and for what is nested too deeply.
    """
    if len(data) > most_bytes:
        raise Malformed(f"more than {most_bytes} bytes")
    try:
        return json.loads(data.decode(), parse_constant=_no_constant, object_pairs_hook=_names_once)
    except Malformed:
        raise
    except UnicodeDecodeError:
        raise Malformed("not UTF-8") from None
    except RecursionError:
        raise Malformed("nested too deeply") from None
    # A number of more digits than int() takes is a ValueError without a place.
    except ValueError as error:
        raise Malformed(f"no JSON: {error}"[:_SHOWN]) from None


def _no_constant(name: str) -> NoReturn:
    raise Malformed(f"{name} is no JSON")


def _names_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise Malformed("a name is given twice")
    return found


def mapping(value: object, what: str) -> dict[str, Any]:
    """Return a value that has to be a JSON object. what: how it is called in the reason."""
    if not isinstance(value, dict):
        raise Malformed(f"{what} is no object")
    return value


def field(value: object, name: str, *types: type) -> Any:
    """Return a field of an object that has to be of one of some types; true is no number."""
    found = mapping(value, "what should have it").get(name)
    if not isinstance(found, types) or (isinstance(found, bool) and bool not in types):
        wanted = " or ".join(each.__name__ for each in types)
        raise Malformed(f"{name!r} is {repr(found)[:_SHOWN]}, not {wanted}")
    return found


def relative_name(text: object) -> str:
    """Return a text that has to be the path of a file below a directory, without . and .. in it."""
    if isinstance(text, str) and "\0" not in text and len(text) < PATH_MAX:
        # A kernel has thousands of them: no loop over their parts.
        inside = f"/{text}/"
        if not ("//" in inside or "/./" in inside or "/../" in inside):
            with contextlib.suppress(UnicodeEncodeError):
                if text.isascii() or len(os.fsencode(text)) < PATH_MAX:
                    return text
    raise Malformed(f"{repr(text)[:_SHOWN]} is no file below an entry")


def plain_name(text: object) -> str:
    """Return a text that has to be the name of a file, printable and without a directory."""
    name = relative_name(text)
    if "/" in name or len(os.fsencode(name)) > NAME_MAX or not name.isprintable():
        raise Malformed(f"{name[:_SHOWN]!r} is no name of a file")
    return name


def words(text: object, what: str, *, most: int = 500) -> str:
    """Return a text that has to fit a line: no control characters, not too long."""
    if not isinstance(text, str) or not text.isprintable() or len(text) > most:
        raise Malformed(f"{what} is {repr(text)[:_SHOWN]}, not a line of text")
    return text
