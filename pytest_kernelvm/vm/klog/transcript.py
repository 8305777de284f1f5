"""What a console said, and what that means: how far a guest came, what to show of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_kernelvm.vm.klog.splats import Splat, read_splats

# Written by machines whose power cannot be switched off (arch/mips/kernel/reset.c).
HALTED = re.compile(r"Reboot failed -- System halted")

_STAMP = r"^(?:\[[^\]\n]*\] ?)*"
# In the order of a boot: the last one seen says how far the guest came.
MILESTONES = tuple(
    (name, re.compile(pattern, re.MULTILINE))
    for name, pattern in (
        # What talks before the kernel does stamp its lines differently, or not at all.
        ("firmware", r"\A\s*(?!\[ *\d+\.\d+\])\S"),
        ("the kernel's banner", r"Linux version \S+"),
        ("the early console", r"\bbootconsole \[\w+\] enabled"),
        ("memory", _STAMP + r"Memory: "),
        ("the console", r"\bconsole \[\w+\] enabled"),
        (
            "initcalls",
            _STAMP
            + r"(?:devtmpfs: initialized|NET: Registered |calling  \S+ @ |futex hash table )",
        ),
        ("the initramfs", r"Trying to unpack rootfs image|Unpacking initramfs"),
        ("freeing of init memory", r"Freeing unused kernel (?:image|memory)"),
        ("init", r"Run \S+ as init process"),
    )
)
NOTHING = "nothing yet"

# An error fits one screen.
SPLAT_LINES = 56
END_LINES = 25
_HEAD_PART = 0.6
# A panic that says nothing itself follows within so many bytes of the splat that led to it.
_NEAR_BYTES = 600


def milestone(text: str) -> str:
    """Return how far the guest came, by its console's text: a name of MILESTONES, or NOTHING.

    Args:
        text: All that came on the console so far.
    """
    text = text.replace("\r", "")
    reached = [name for name, pattern in MILESTONES if pattern.search(text)]
    return reached[-1] if reached else NOTHING


def lines_between(text: str, after_s: float, before_s: float) -> int:
    """Return how many lines of a console have a time between two, those included.

    What a program left unfinished may stand in front of the time.

    Args:
        text: The console's.
        after_s: The first time, in seconds since the boot.
        before_s: The last one.
    """
    stamps = re.findall(r"^[^\n]*?\[ *(\d+\.\d{6})\]", text, re.MULTILINE)
    return sum(after_s <= float(stamp) <= before_s for stamp in stamps)


def on_early_console(text: str) -> bool:
    """Return whether only the early console printed: the one of console= did not take over.

    Args:
        text: All that came on the console so far.
    """
    others = re.search(r"\bconsole \[[^]]*\] enabled", text)
    return bool(re.search(r"\bbootconsole \[", text)) and not others


def chain(splats: Sequence[Splat], last: Splat) -> tuple[Splat, ...]:
    """Return a splat with those right before it that led to it.

    Args:
        splats: All of them, in their order.
        last: The splat, which is among them.
    """
    found = [last]
    for splat in reversed(splats[: list(splats).index(last)]):
        if found[0].start - splat.end > _NEAR_BYTES:
            break
        found.insert(0, splat)
    return tuple(found)


def shown(splats: Sequence[Splat]) -> str:
    """Return the text of splats for an error; the middle is left out if it is too long."""
    lines = "\n".join(splat.text for splat in splats).split("\n")
    if len(lines) <= SPLAT_LINES:
        return "\n".join(lines)
    head = int(SPLAT_LINES * _HEAD_PART)
    rest = SPLAT_LINES - head - 1
    left_out = len(lines) - head - rest
    return "\n".join([*lines[:head], f"… {left_out} lines are in the log …", *lines[-rest:]])


def last_lines(text: str, lines: int = END_LINES) -> str:
    """Return the last lines of a console.

    Args:
        text: The console's.
        lines: How many.
    """
    return "\n".join(text.replace("\r", "").rstrip("\n").split("\n")[-lines:])


def around_end(text: str, lines: int = END_LINES) -> str:
    """Return the last lines of a console, and the last splat if it is not among them.

    Args:
        text: The console's.
        lines: How many of the last lines.
    """
    text = text.replace("\r", "")
    end = last_lines(text, lines)
    splats = read_splats(text)
    if not splats or splats[-1].start >= len(text.rstrip("\n")) - len(end):
        return end
    after = text[splats[-1].end :].strip("\n")
    rest = last_lines(after, lines) if after else ""
    left_out = "…\n" if rest and len(rest) < len(after) else ""
    return "\n".join(part for part in (shown(splats[-1:]), f"{left_out}{rest}") if part)
