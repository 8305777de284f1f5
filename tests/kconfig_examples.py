"""A small Kconfig tree with every way to lose a symbol, and what conf makes of it.

The final configurations are recorded from the conf of 6.1 and 6.12, which agree;
tests/vm/test_kconfig_sources.py asks both again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MAIN = """\
mainmenu "Example"

config MODULES
	bool "Modules"
	modules
	default y

config NET
	bool "Networking"

if NET

config INET
	bool "TCP/IP"
	depends on HARDWARE

config HARDWARE
	bool "Hardware"

source "sub/Kconfig"

endif

config BUS
	tristate "Bus"

config CARD
	tristate "Card"
	depends on BUS && NET

config HIDDEN
	bool
	default y if BUS=y

config LIBRARY
	tristate

config USER
	tristate "User of the library"
	select LIBRARY

config FORCED
	bool "Forced"

config FORCER
	bool "Forcer"
	select FORCED

config LEVEL
	int "Level"
	range 1 10
	default 10

config ADDRESS
	hex "Address"
	default 0x1000

config NAME
	string "Name"
	depends on NET
	default "x"

choice
	prompt "Endianness"
	default BIG

config BIG
	bool "Big"

config LITTLE
	bool "Little"

endchoice

menu "Experts"
	visible if EXPERT

config DEEP
	bool "Deep"
	default y

endmenu

config EXPERT
	bool "Expert"

config EITHER
	bool "Either"
	depends on (CARD || LITTLE) && !FORCED
"""

SUB = """\
menu "Protocols"
	depends on INET

config PROTOCOL
	tristate "A protocol"

config DETAIL
	bool "A detail" if EXPERT
	depends on PROTOCOL

endmenu
"""


def write_tree(directory: Path) -> Path:
    """Write the Kconfig files and return their directory."""
    (directory / "sub").mkdir(parents=True)
    (directory / "Kconfig").write_text(MAIN)
    (directory / "sub" / "Kconfig").write_text(SUB)
    (directory / "elsewhere").mkdir()
    (directory / "elsewhere" / "Kconfig").write_text("config FOREIGN\n\tbool\n")
    return directory


@dataclass(frozen=True)
class Example:
    """What is asked for, what conf makes of it, and how each loss is explained.

    losses: `NAME reason: line`, in the order of the report. extra: what mends what can be mended.
    """

    name: str
    asked: Mapping[str, str]
    final: Mapping[str, str]
    losses: tuple[str, ...]
    extra: Mapping[str, str] = field(default_factory=dict)


PLAIN = {"MODULES": "y", "LEVEL": "10", "ADDRESS": "0x1000", "BIG": "y", "DEEP": "y"}


def without(name: str) -> dict[str, str]:
    """Return what is set when nobody asks for anything, but for one symbol."""
    return {other: value for other, value in PLAIN.items() if other != name}


EXAMPLES = (
    Example(
        name="dependency",
        asked={"PROTOCOL": "m"},
        final=PLAIN,
        losses=(
            "PROTOCOL unmet dependency: depends on INET  sub/Kconfig:2: INET=n",
            "PROTOCOL unmet dependency: if NET           Kconfig:11: NET=n",
        ),
        extra={"HARDWARE": "y", "INET": "y", "NET": "y"},
    ),
    Example(
        name="limited to m",
        asked={"CARD": "y", "BUS": "m", "NET": "y"},
        final=PLAIN | {"NET": "y", "BUS": "m", "CARD": "m", "NAME": '"x"'},
        losses=("CARD limited to m: depends on BUS  Kconfig:29: BUS=m (asked for: a:2)",),
        extra={},
    ),
    Example(
        name="two dependencies",
        asked={"CARD": "m"},
        final=PLAIN,
        losses=(
            "CARD unmet dependency: depends on BUS  Kconfig:29: BUS=n",
            "CARD unmet dependency: depends on NET  Kconfig:29: NET=n",
        ),
        extra={"BUS": "m", "NET": "y"},
    ),
    Example(
        name="by default only",
        asked={"HIDDEN": "y"},
        final=PLAIN,
        losses=(
            "HIDDEN cannot be set by hand: it has no prompt, Kconfig:31; others decide",
            "HIDDEN cannot be set by hand: default y: BUS=n",
        ),
        extra={"BUS": "y"},
    ),
    Example(
        name="always by default",
        asked={"HIDDEN": "n", "BUS": "y"},
        final=PLAIN | {"BUS": "y", "HIDDEN": "y"},
        losses=(
            "HIDDEN cannot be set by hand: it has no prompt, Kconfig:31",
            "HIDDEN cannot be set by hand: by default it is y because BUS=y (asked for: a:2)",
        ),
        extra={},
    ),
    Example(
        name="selected only",
        asked={"LIBRARY": "m"},
        final=PLAIN,
        losses=(
            "LIBRARY cannot be set by hand: it has no prompt, Kconfig:35; others decide",
            "LIBRARY cannot be set by hand: selected by USER, Kconfig:38: USER=n",
        ),
        extra={"USER": "m"},
    ),
    Example(
        name="selected as y",
        asked={"USER": "y", "LIBRARY": "m"},
        final=PLAIN | {"LIBRARY": "y", "USER": "y"},
        losses=("LIBRARY forced by select: USER=y (asked for: a:1) selects it, Kconfig:38",),
        extra={},
    ),
    Example(
        name="forced",
        asked={"FORCED": "n", "FORCER": "y"},
        final=PLAIN | {"FORCED": "y", "FORCER": "y"},
        losses=("FORCED forced by select: FORCER=y (asked for: a:2) selects it, Kconfig:45",),
        extra={},
    ),
    Example(
        name="range",
        asked={"LEVEL": "40"},
        final=PLAIN,
        losses=("LEVEL out of range: 40 is not in the range 1 to 10, Kconfig:49",),
        extra={},
    ),
    Example(
        name="text",
        asked={"NAME": '"a"'},
        final=PLAIN,
        losses=("NAME unmet dependency: depends on NET  Kconfig:60: NET=n",),
        extra={"NET": "y"},
    ),
    Example(
        name="choice",
        asked={"LITTLE": "y", "BIG": "y"},
        final=without("BIG") | {"LITTLE": "y"},
        losses=("BIG lost a choice: LITTLE=y (asked for: a:1) won the choice at Kconfig:63",),
        extra={},
    ),
    Example(
        name="nobody wins",
        asked={"BIG": "n", "LITTLE": "n"},
        final=PLAIN,
        losses=(
            "BIG a choice needs a winner: ask for another of the choice at Kconfig:63: LITTLE",
        ),
        extra={},
    ),
    Example(
        name="invisible",
        asked={"DEEP": "n"},
        final=PLAIN,
        losses=(
            "DEEP cannot be set by hand: its default applies while it is invisible",
            "DEEP cannot be set by hand: visible if EXPERT  Kconfig:76: EXPERT=n",
        ),
        extra={"EXPERT": "y"},
    ),
    Example(
        name="many",
        asked={"DETAIL": "y"},
        final=PLAIN,
        losses=(
            "DETAIL unmet dependency: prompt if EXPERT     sub/Kconfig:8: EXPERT=n",
            "DETAIL unmet dependency: depends on PROTOCOL  sub/Kconfig:9: PROTOCOL=n",
            "DETAIL unmet dependency: depends on INET      sub/Kconfig:2: INET=n",
            "DETAIL unmet dependency: if NET               Kconfig:11: NET=n",
        ),
        extra={"EXPERT": "y", "HARDWARE": "y", "INET": "y", "NET": "y", "PROTOCOL": "m"},
    ),
    Example(
        name="m of a bool",
        asked={"NET": "m"},
        final=PLAIN,
        losses=("NET wrong type: bool at Kconfig:8: may be y, n, not m",),
        extra={},
    ),
    Example(
        name="text for a number",
        asked={"LEVEL": '"q"'},
        final=PLAIN,
        losses=('LEVEL wrong type: int at Kconfig:49: needs a whole number, not "q"',),
        extra={},
    ),
    Example(
        name="names",
        asked={"FOREIGN": "y", "SLOB": "y", "PROTOCL": "m", "FAR_FROM_ALL": "y"},
        final=PLAIN,
        losses=(
            "FAR_FROM_ALL no such symbol: no symbol has a similar name",
            "PROTOCL no such symbol: did you mean PROTOCOL?",
            "SLOB no such symbol any more: renamed to SLUB_TINY in 6.4",
            "FOREIGN not for this architecture: elsewhere/Kconfig:1, which defines it, is not read",
        ),
        extra={},
    ),
    Example(
        name="either",
        asked={"EITHER": "y"},
        final=PLAIN,
        losses=(
            "EITHER unmet dependency: depends on CARD || LITTLE  Kconfig:89: CARD=n, LITTLE=n",
        ),
        extra={"LITTLE": "y"},
    ),
    Example(
        name="no modules",
        asked={"BUS": "m", "MODULES": "n"},
        final=without("MODULES") | {"BUS": "y", "HIDDEN": "y"},
        losses=("BUS raised to y: MODULES=n (asked for: a:2)",),
        extra={},
    ),
    Example(
        name="asked away",
        asked={"INET": "y", "HARDWARE": "n", "NET": "y"},
        final=PLAIN | {"NET": "y", "NAME": '"x"'},
        losses=(
            "INET unmet dependency: depends on HARDWARE  Kconfig:15: HARDWARE=n (asked for: a:2)",
        ),
        extra={},
    ),
    Example(
        name="hexadecimal",
        asked={"ADDRESS": "1000"},
        final=PLAIN | {"ADDRESS": "1000"},
        losses=(),
        extra={},
    ),
    Example(
        name="a chain",
        asked={"NET": "y", "INET": "y", "PROTOCOL": "y", "CARD": "y"},
        final=PLAIN | {"NET": "y", "NAME": '"x"'},
        losses=(
            "CARD unmet dependency: depends on BUS  Kconfig:29: BUS=n",
            "INET unmet dependency: depends on HARDWARE  Kconfig:15: HARDWARE=n",
            "PROTOCOL unmet dependency: depends on INET  sub/Kconfig:2: INET=n (itself lost)",
        ),
        extra={"BUS": "y", "HARDWARE": "y"},
    ),
)
