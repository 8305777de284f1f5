"""Names of modules and patterns: how kmod normalises and matches them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from pytest_kernelvm.errors import BadInput, Evidence

Matcher = Callable[[str], bool]

MODULE_SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")

_CLASS = re.compile(r"\[[^\]]*\]")
_SET = r"\[[!^]?+(?:\][^\]]*|[^\]]+)\]"
_TOKEN = re.compile(
    rf"(?P<stars>\*+)|(?P<one>\?)|(?P<set>{_SET})|\\(?P<quoted>.)|(?P<plain>[^*?\[\\]+|.)",
    re.DOTALL,
)
_WILD = re.compile(rf"{_SET}|[*?\[\\]", re.DOTALL)


class OpenBracket(BadInput):
    """A name has a `[` or `]` without the other one."""


def normalise(name: str) -> str:
    """Return a name as kmod compares it: `-` becomes `_`, except inside `[…]`.

    Source: kmod, shared/util.c, alias_normalize.

    Args:
        name: A module, an alias or a pattern.

    Raises:
        OpenBracket: If a bracket has no partner.
    """
    if "[" not in name and "]" not in name:
        return name.replace("-", "_")
    outside = _CLASS.split(name)
    if any("[" in part or "]" in part for part in outside):
        raise OpenBracket(
            f"{name!r} has a bracket without a partner",
            Evidence(expected="every [ of a name closed by a ]", seen=name),
        )
    inside = [*_CLASS.findall(name), ""]
    return "".join(
        part.replace("-", "_") + kept for part, kept in zip(outside, inside, strict=True)
    )


def name_of_file(path: str) -> str:
    """Return the module of a module file: its base name up to the first `.`, normalised.

    Source: kmod, shared/util.c, path_to_modname.

    Args:
        path: With or without directories.
    """
    return path[path.rfind("/") + 1 :].partition(".")[0].replace("-", "_")


def checked_name(name: str) -> str:
    """Return the name that a user gave, normalised.

    Args:
        name: A module or an alias: `nft_ct`, `nft-ct`, `fs-ext4`, `devname:net/tun`.

    Raises:
        BadInput: For a path, a file name, an empty text or an open bracket.
    """
    # Behind a `:` a slash is part of an alias.
    if name.endswith(MODULE_SUFFIXES) or "/" in name.partition(":")[0]:
        raise BadInput(
            f"{name!r} is a file, not the name of a module",
            Evidence(
                expected="a name as modprobe takes it, without directory and .ko",
                seen=name,
                next_step=f"write {name_of_file(name)!r}",
            ),
        )
    if not name or name != name.strip() or not name.isprintable():
        raise BadInput(
            f"{name!r} is not a module's name",
            Evidence(expected="a name in one line, without blanks around it", seen=repr(name)),
        )
    return normalise(name)


@functools.lru_cache(maxsize=1024)
def pattern_regex(pattern: str) -> re.Pattern[str]:
    """Return a regular expression that matches fully what fnmatch(3) without flags matches.

    It takes time linear in the lengths of pattern and text: what stands between two stars is
    matched once, leftmost, and never tried again.

    Args:
        pattern: With `*`, `?`, `[…]`, `[!…]` and `[^…]`, brackets closed. Outside of brackets a
            backslash quotes. Classes such as `[:digit:]` are not known.
    """
    parts: list[str] = [""]
    for token in _TOKEN.finditer(pattern):
        match token.lastgroup:
            case "stars":
                parts.append("")
            case "one":
                parts[-1] += "."
            case "set":
                parts[-1] += _set_regex(token["set"])
            case _:
                parts[-1] += re.escape(token["quoted"] or token["plain"])
    first, *middle = parts
    if not middle:
        return re.compile(first, re.DOTALL)
    *middle, last = middle
    return re.compile(first + "".join(f"(?>.*?{part})" for part in middle) + f".*{last}", re.DOTALL)


def matcher(pattern: str) -> Matcher:
    """Return a function that returns whether a text matches a pattern, as `pattern_regex` does.

    A pattern with no other wildcards than stars needs no regular expression; these are slow to
    compile.

    Args:
        pattern: As for `pattern_regex`.
    """
    if "?" in pattern or "[" in pattern or "\\" in pattern:
        return lambda text: pattern_regex(pattern).fullmatch(text) is not None
    return functools.partial(_matches_stars, tuple(pattern.split("*")))


def _matches_stars(parts: tuple[str, ...], text: str) -> bool:
    """Tell whether a text is some parts with anything between them."""
    first, last = parts[0], parts[-1]
    if len(parts) == 1:
        return text == first
    end = len(text) - len(last)
    at = len(first)
    if at > end or not (text.startswith(first) and text.endswith(last)):
        return False
    for part in parts[1:-1]:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def is_pattern(text: str) -> bool:
    """Whether a name has wildcards."""
    return "*" in text or "[" in text or "?" in text or "\\" in text


def literal_parts(pattern: str) -> list[str]:
    """Return the texts between the wildcards of a pattern; a single one if it has none.

    Args:
        pattern: As fnmatch(3) takes it.
    """
    return _WILD.split(pattern)


def _set_regex(text: str) -> str:
    negated = text[1] in "!^"
    members = text[2:-1] if negated else text[1:-1]
    ranges: list[str] = []
    for low, high in re.findall(r"(.)(?:-(.))?", members, re.DOTALL):
        # fnmatch(3) lets `[z-a]` match nothing; a regular expression would refuse it.
        if not high or low <= high:
            ranges.append(re.escape(low) + (f"-{re.escape(high)}" if high else ""))
    if not ranges:
        return "." if negated else r"(?!)"
    return f"[{'^' if negated else ''}{''.join(ranges)}]"
