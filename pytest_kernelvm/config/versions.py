"""Kernel versions, and ranges of them as vm-configs write them: `<6.17`, `>=5.4,<5.18`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from pytest_kernelvm.errors import BadInput, Evidence

# What the whole text of a version matches, and that in words.
VERSION_PATTERN = r"[0-9]+\.[0-9]+[A-Za-z0-9.+-]*"
VERSION_SHAPE = "a version such as 6.12"
_NUMBERS = re.compile(r"[0-9]+(?:\.[0-9]+)*")


def is_version(text: str) -> bool:
    """Return whether a text is a kernel version."""
    return re.fullmatch(VERSION_PATTERN, text) is not None


def leading_numbers(text: str) -> tuple[int, ...]:
    """Return the numbers at the beginning of a version or release.

    Args:
        text: Such as 6.12.30-rc1 or 6.1.0-28-amd64, of which this is (6, 12, 30) and (6, 1, 0).

    Returns:
        (6, 1, 0) for 6.1.0-10-arm64; empty if the text begins with no number.
    """
    found = _NUMBERS.match(text.strip())
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def numbers_of(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, without a suffix such as -rc1.

    Args:
        version: Such as 6.12, 6.12.30 or 6.13-rc1.

    Raises:
        BadInput: The text does not begin with a number.
    """
    numbers = leading_numbers(version)
    if not numbers:
        raise BadInput(f"{version!r} is no kernel version", Evidence(expected="6.12 or 6.12.30"))
    return numbers


def series_of(version: str) -> str:
    """Return the series of a version: 6.12 for 6.12.30.

    BadInput is raised if it does not begin with a number.

    Args:
        version: Such as 6.12.30 or 6.13-rc1.
    """
    return ".".join(str(number) for number in numbers_of(version)[:2])


def begins_with(version: str, beginning: str) -> bool:
    """Return whether a version is the one that is given, or begins with its numbers.

    Args:
        version: A whole version, such as 6.12.30.
        beginning: 6.12 or 6.12.30, but not 6.1.
    """
    return f"{version}.".startswith(f"{beginning}.")


def upstream_of(package_version: str) -> str:
    """Return the kernel's version in a Debian package's version: 6.12.30 in 6.12.30-1~bpo12+1.

    Args:
        package_version: As dpkg shows it: epoch, upstream version and revision.
    """
    # deb-version(7): behind a tilde is what release candidates and backports add, behind a minus
    # the package's own revision.
    return re.split(r"[-~+]", package_version)[0]


_COMPARISONS: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_BOUND = r"\s*(?:<=|>=|==|!=|<|>)\s*[0-9]+(?:\.[0-9]+)*\s*"

# What the whole text of a range matches, and that in words.
RANGE_PATTERN = rf"{_BOUND}(?:,{_BOUND})*"
RANGE_SHAPE = 'a range of versions such as "<6.17" or ">=5.4,<5.18"'


@dataclass(frozen=True, slots=True)
class VersionRange:
    """Kernel versions that meet all of some bounds.

    A bound is compared with as many numbers as it has itself: 6.12.30 is `==6.12` and `<=6.12`,
    not `>6.12`. A suffix such as -rc1 does not count, since a release candidate has the new code.

    Attributes:
        text: `OP VERSION`, several with commas between them; OP is one of < <= > >= == !=. An
            empty text stands for every version.

    Raises:
        BadInput: The text is no such range.
    """

    text: str = ""

    def __post_init__(self) -> None:
        if self.text and not re.fullmatch(RANGE_PATTERN, self.text):
            raise BadInput(f"{self.text!r} is no range of versions", Evidence(expected=RANGE_SHAPE))

    def __str__(self) -> str:
        return self.text

    def includes(self, version: str) -> bool:
        """Return whether a kernel version is in the range.

        BadInput is raised if the version does not begin with a number.

        Args:
            version: As `make kernelversion` prints it. Numbers that are missing count as 0, so
                this must be the whole version if a bound may have three numbers.
        """
        numbers = numbers_of(version)
        return all(_meets(numbers, bound) for bound in self._bounds)

    def may_include(self, beginning: str) -> bool:
        """Return whether any version that begins with these numbers is in the range.

        BadInput is raised if there are no numbers.

        Args:
            beginning: Such as 6.12, which 6.12.30 begins with.
        """
        numbers = numbers_of(beginning)
        return all(_may_meet(numbers, bound) for bound in self._bounds)

    def beyond(self, beginning: str) -> VersionRange:
        """Return the bounds that the beginning of a version does not decide.

        BadInput is raised if it does not begin with a number.

        Args:
            beginning: Such as 6.12.

        Returns:
            The bounds that have more numbers than that.
        """
        known = len(numbers_of(beginning))
        return VersionRange(",".join(b for b in self._bounds if len(_limit(b)) > known))

    @property
    def _bounds(self) -> tuple[str, ...]:
        return tuple(bound.strip() for bound in self.text.split(",") if bound.strip())


EVERY_VERSION = VersionRange()


def _meets(version: tuple[int, ...], bound: str) -> bool:
    limit = _limit(bound)
    padded = (*version, *(0 for _ in limit))[: len(limit)]
    return _COMPARISONS[_sign(bound)](padded, limit)


def _may_meet(beginning: tuple[int, ...], bound: str) -> bool:
    limit, sign = _limit(bound), _sign(bound)
    if len(limit) <= len(beginning):
        return _meets(beginning, bound)
    # The numbers that are still to come may be smaller or larger than the bound's.
    undecided = {"<": "<=", ">": ">="}.get(sign, sign)
    return sign == "!=" or _COMPARISONS[undecided](beginning, limit[: len(beginning)])


def _sign(bound: str) -> str:
    return next(sign for sign in _COMPARISONS if bound.startswith(sign))


def _limit(bound: str) -> tuple[int, ...]:
    return numbers_of(bound.removeprefix(_sign(bound)))
