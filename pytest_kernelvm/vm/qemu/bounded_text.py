"""Text that a guest says over time, with when it came; its beginning is kept, up to a limit.

The beginning and not the end: offsets into it stay what they are, a boot's log is at its beginning,
and what a guest says when it does nothing but talk is the same over and over.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Sequence
from typing import overload

# Bytes that came within this time are one piece: a serial port gives a few at a time.
APART_S = 0.002
# The limit of one guest, in MiB; its text and times take little more memory than this.
CONSOLE_LIMIT_MIB = 48
# This much of the beginning and of the end of a text is enough to see what became of its guest.
EXCERPT_BYTES = 1 << 18


class ArrivalTimes(Sequence[tuple[float, int]]):
    """When each piece of a text came.

    It is a sequence of pairs: the time on the monotonic clock, and the offset where the piece
    begins.

    Args:
        pieces: Those that are known already.
    """

    def __init__(self, pieces: Sequence[tuple[float, int]] = ()) -> None:
        self._at = array("d", [at for at, _offset in pieces])
        self._offsets = array("Q", [offset for _at, offset in pieces])

    def note(self, at: float, offset: int) -> None:
        """Note that a text goes on at an offset; what comes within APART_S is one piece.

        Args:
            at: The time on the monotonic clock.
            offset: How many bytes the text had before.
        """
        if not self._at or at - self._at[-1] >= APART_S:
            self._at.append(at)
            self._offsets.append(offset)

    def arrival_of(self, offset: int) -> float:
        """Return when the byte at an offset came; 0.0 if nothing is known of it.

        Args:
            offset: In bytes, from the text's beginning.
        """
        place = bisect.bisect_right(self._offsets, offset) - 1
        return self._at[place] if place >= 0 else 0.0

    def __len__(self) -> int:
        return len(self._at)

    @overload
    def __getitem__(self, place: int) -> tuple[float, int]: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[tuple[float, int]]: ...

    def __getitem__(self, place: int | slice) -> tuple[float, int] | Sequence[tuple[float, int]]:
        if isinstance(place, slice):
            return list(zip(self._at[place], self._offsets[place], strict=True))
        return self._at[place], self._offsets[place]


class BoundedText:
    """A text that grows up to a limit; what comes beyond it is counted and not kept.

    Args:
        limit_bytes: How much is kept.
        before: What the text begins with.
        times: When each piece of `before` came.

    Attributes:
        limit_bytes: How much is kept.
        raw: What is kept.
        dropped_bytes: How much is not kept.
        times: When each piece came.
    """

    def __init__(
        self,
        limit_bytes: int,
        before: bytes = b"",
        times: Sequence[tuple[float, int]] = (),
    ) -> None:
        self.limit_bytes = limit_bytes
        self.raw = bytearray(before[:limit_bytes])
        self.dropped_bytes = len(before) - len(self.raw)
        self.times = ArrivalTimes(times)

    @property
    def is_cut(self) -> bool:
        """Whether there was more than is kept."""
        return self.dropped_bytes > 0

    def append(self, data: bytes, at: float) -> bytes:
        """Add to the text.

        Args:
            data: What came.
            at: When, on the monotonic clock.

        Returns:
            As much of `data` as is kept.
        """
        kept = data[: self.limit_bytes - len(self.raw)]
        if kept:
            self.times.note(at, len(self.raw))
            self.raw += kept
        self.dropped_bytes += len(data) - len(kept)
        return kept

    def excerpt(self, *around: tuple[int, int]) -> str:
        """Return the text with LF at the ends of its lines; of a long one its beginning and end.

        Args:
            *around: Pairs of a first and a last offset; the text between them is in the excerpt
                too.
        """
        size = len(self.raw)
        wanted = [(0, EXCERPT_BYTES), (max(0, size - EXCERPT_BYTES), size)]
        wanted += [(max(0, start - EXCERPT_BYTES), end) for start, end in around]
        found, shown = bytearray(), 0
        for start, end in sorted(wanted):
            if start > shown:
                found += b"\n... %d bytes are in the log ...\n" % (start - shown)
            found += self.raw[max(start, shown) : end]
            shown = max(shown, min(end, size))
        return found.decode(errors="replace").replace("\r\n", "\n")
