"""What a console said, and what that means: milestones, panics, splats."""

from __future__ import annotations

import re
from dataclasses import dataclass

PANIC = re.compile(r"Kernel panic - not syncing: (?P<why>[^\r\n]*)")
# Written by machines whose power cannot be switched off (arch/mips/kernel/reset.c).
HALTED = re.compile(r"Reboot failed -- System halted")

# In the order of a boot: the last one seen says how far the guest came.
MILESTONES = (
    ("the kernel's banner", re.compile(r"Linux version \S+")),
    ("memory", re.compile(r"^(?:\[[^\]]*\] ?)*Memory: ", re.MULTILINE)),
    ("the console", re.compile(r"\bconsole \[\w+\] enabled")),
    ("the initramfs", re.compile(r"Trying to unpack rootfs image|Unpacking initramfs")),
    ("freeing of init memory", re.compile(r"Freeing unused kernel (?:image|memory)")),
    ("init", re.compile(r"Run \S+ as init process")),
)

SPLAT = re.compile(
    r"^(?:\[[^\]]*\] ?)*(?P<what>"
    r"WARNING: CPU: \d+ PID: .*|BUG: .*|Oops.*|Internal error: .*|kernel BUG at .*"
    r"|Unable to handle kernel .*|CPU \d+ Unable to handle kernel .*|INFO: task .* blocked for .*"
    r"|watchdog: BUG: soft lockup .*|Kernel bug detected.*|Unhandled kernel unaligned access.*"
    r")$",
    re.MULTILINE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """What a transcript shows.

    milestone: the last one reached, empty before the first. panic: the kernel's reason, empty if
    there is none. splats: first lines of warnings and oopses.
    """

    milestone: str
    panic: str
    splats: tuple[str, ...]


def read_transcript(text: str) -> Findings:
    """Return what a console's text shows; lines may end in CR LF."""
    text = text.replace("\r", "")
    reached = [name for name, pattern in MILESTONES if pattern.search(text)]
    panic = PANIC.search(text)
    return Findings(
        milestone=reached[-1] if reached else "",
        panic=panic["why"] if panic else "",
        splats=tuple(found["what"] for found in SPLAT.finditer(text)),
    )


def around_end(text: str, lines: int = 25) -> str:
    """Return the last lines of a console; from the first splat on, where there is one in reach."""
    text = text.replace("\r", "")
    all_lines = text.rstrip("\n").split("\n")
    splat = SPLAT.search(text) or PANIC.search(text)
    if splat:
        first = text[: splat.start()].count("\n")
        return "\n".join(all_lines[max(0, first - 2, len(all_lines) - 4 * lines) :])
    return "\n".join(all_lines[-lines:])
