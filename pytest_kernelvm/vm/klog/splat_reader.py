"""Finding the splats of a text while it grows, each byte looked at once."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from pytest_kernelvm.vm.klog.splat_table import PANIC_HINT
from pytest_kernelvm.vm.klog.splats import HINT, LINES_ABOVE, Splat, read_splats

# So much is read at once.
STEP_BYTES = 1 << 20
# A text that goes on for longer is read as what comes behind it.
LONGEST_BYTES = 1 << 16
# So many are kept, whole, of what ends no guest: more takes more memory than the text itself.
MOST_SPLATS = 1000

_HINT = re.compile(HINT.pattern.encode())
_PANIC_HINT = re.compile(PANIC_HINT.pattern.encode())


class SplatReader:
    """Finds the splats of a text that grows.

    Args:
        text: Its bytes, to which others append.
        start: The offset from which on it is read.
        find: Returns the splats of a piece of it.
        see: Called with the first and the last offset of each piece that is read.

    Attributes:
        finished: The splats so far that have an end.
        unfinished: The last one, if it may go on.
        left_out: Stands for all splats beyond MOST_SPLATS, with the place of the last one. It is of
            a kind of its own, so that a test which allows the others does not allow these too.
    """

    def __init__(
        self,
        text: bytearray,
        start: int = 0,
        *,
        find: Callable[[str], tuple[Splat, ...]] = read_splats,
        see: Callable[[int, int], None] = lambda _start, _end: None,
    ) -> None:
        self.finished: list[Splat] = []
        self.unfinished: Splat | None = None
        self.left_out: Splat | None = None
        self._text = text
        self._find = find
        self._see = see
        self._floor = self._searched = self._seen = start

    @property
    def splats(self) -> tuple[Splat, ...]:
        """All of them, those that stand for others included."""
        return (*self.finished, *(each for each in (self.left_out, self.unfinished) if each))

    def look_from(self, start: int) -> None:
        """Read the text again from an earlier offset on."""
        self.finished.clear()
        self.unfinished = self.left_out = None
        self._floor = self._searched = self._seen = start

    def read(self, *, ended: bool) -> None:
        """Find the splats in what came since the last call.

        Args:
            ended: Whether nothing more comes, so that a last line without its newline counts.
        """
        while (end := self._whole_lines(ended)) > self._searched:
            self._read_to(end)

    def _whole_lines(self, ended: bool) -> int:
        """Return up to where the text is to be read now: an end of a line, if there is one."""
        size = len(self._text)
        limit = min(size, self._searched + STEP_BYTES)
        # What was looked at before has no more ends of lines.
        whole = self._text.rfind(b"\n", max(self._seen, self._searched), limit) + 1
        self._seen = limit
        is_last = limit == size and ended
        is_too_long = limit < size and whole <= self._searched
        return limit if is_last or is_too_long else whole

    def _read_to(self, end: int) -> None:
        self._see(self._searched, end)
        if self.left_out and not _PANIC_HINT.search(self._text, self._searched, end):
            self._pass_over(end)
            return
        if not self.unfinished and not _HINT.search(self._text, self._searched, end):
            self._searched = end
            return
        # What a line means may hang on those above it.
        start = self._above(self.unfinished.start if self.unfinished else self._searched)
        self._searched = end
        self.unfinished = None
        said = bytes(self._text[start:end]).decode("latin-1")
        for splat in self._find(said):
            found = _moved(splat, start, self._text)
            if found.complete or found.end - found.start > LONGEST_BYTES:
                self._keep(found)
                self._floor = found.end
            else:
                self.unfinished = found

    def _pass_over(self, end: int) -> None:
        """Leave what may be splats out, and note where."""
        assert self.left_out
        hint = _HINT.search(self._text, self._searched, end)
        if hint or self.unfinished:
            self.left_out = replace(self.left_out, start=self._searched, end=end)
        self.unfinished = None
        self._searched = self._floor = end

    def _keep(self, found: Splat) -> None:
        if len(self.finished) < MOST_SPLATS or found.fatal:
            self.finished.append(found)
            return
        title = f"more than {MOST_SPLATS} splats: the later ones are not looked at"
        self.left_out = replace(found, kind="too many splats", title=title, text=title)

    def _above(self, offset: int) -> int:
        """Return where the line begins that is LINES_ABOVE above an offset, or not far above it."""
        floor = max(self._floor, offset - LONGEST_BYTES)
        for _line in range(LINES_ABOVE):
            above = self._text.rfind(b"\n", floor, max(floor, offset - 1))
            if above < 0:
                return floor
            offset = above + 1
        return offset


def _moved(splat: Splat, by: int, text: bytearray) -> Splat:
    """Return a splat that was read from a piece of a text, with its place in the whole."""
    start, end = splat.start + by, splat.end + by
    said = bytes(text[start:end]).decode(errors="replace").replace("\r", "").rstrip("\n")
    title = splat.title.encode("latin-1").decode(errors="replace")
    return replace(splat, start=start, end=end, text=said, title=title)
