"""Ranges of kernel versions, as vm-configs write them: `<6.17`, `>=5.4,<5.18`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

from pytest_kernelvm.errors import BadInput, Evidence

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
    """Kernel versions that meet every one of some bounds, separated by commas.

    text: `OP VERSION`, several with commas between; OP is one of < <= > >= == !=. An empty text
        stands for every version.

    A bound is compared with as many numbers as it has itself: 6.12.30 is `==6.12` and `<=6.12`,
    not `>6.12`. A suffix such as -rc1 does not count, since a release candidate has the new code.
    """

    text: str = ""

    def __post_init__(self) -> None:
        if self.text and not re.fullmatch(RANGE_PATTERN, self.text):
            raise BadInput(f"{self.text!r} is no range of versions", Evidence(expected=RANGE_SHAPE))

    def __str__(self) -> str:
        return self.text

    def includes(self, version: str) -> bool:
        """Return whether a kernel version is in the range.

        version: as `make kernelversion` prints it. Numbers that it leaves out count as 0, so give
            the whole version where a bound may have three numbers.
        Raises BadInput if it does not begin with a number.
        """
        found = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
        if not found:
            raise BadInput(
                f"{version!r} is no kernel version", Evidence(expected="6.12 or 6.12.30")
            )
        numbers = _numbers(found[0])
        return all(_meets(numbers, bound.strip()) for bound in self.text.split(",") if self.text)


EVERY_VERSION = VersionRange()


def _meets(version: tuple[int, ...], bound: str) -> bool:
    sign = next(sign for sign in _COMPARISONS if bound.startswith(sign))
    limit = _numbers(bound.removeprefix(sign).strip())
    padded = (*version, *(0 for _ in limit))[: len(limit)]
    return _COMPARISONS[sign](padded, limit)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
