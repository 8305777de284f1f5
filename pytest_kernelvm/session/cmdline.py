"""Where the words of a kernel's command line come from: bootloader, kernel or device tree."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pytest_kernelvm.vm.machine.vm import Vm

BOOTLOADER = "bootloader"
BUILTIN = "built-in"
TREE = "device tree"
# Words that are in no source: the code of the board has added them.
UNKNOWN = "unknown"

# Costs of a run of words. The cheapest way to take a line apart has the fewest runs, and keeps
# whole lines of sources together.
_WHOLE, _PART, _UNKNOWN_WORD = 1, 2, 5

BOOTARGS = "/sys/firmware/devicetree/base/chosen/bootargs"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contribution:
    """Words that stand together in a command line.

    Attributes:
        source: Where they come from: BOOTLOADER, BUILTIN, TREE or UNKNOWN.
        words: The words, in order.
    """

    source: str
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Composition:
    """A command line, taken apart.

    Attributes:
        contributions: The runs of words, in order.
    """

    contributions: tuple[Contribution, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources, in the order of the words."""
        return tuple(part.source for part in self.contributions)

    def __str__(self) -> str:
        lines = (f"{part.source}: {' '.join(part.words)}" for part in self.contributions)
        return "\n".join(lines) or "nobody contributed a word"


def take_apart(line: str, sources: Mapping[str, str]) -> Composition:
    """Return which source each word of a command line comes from.

    Whole lines of sources are preferred to parts of them, and long parts to short ones. So a word
    that two sources have counts for the one whose other words are around it.

    Args:
        line: The command line.
        sources: The words that each source offers, by its name; the first counts where several fit.

    Returns:
        The line, taken apart.
    """
    words = line.split()
    given = {name: text.split() for name, text in sources.items()}
    best: list[tuple[int, tuple[Contribution, ...]]] = [(0, ())]
    for end in range(1, len(words) + 1):
        best.append(min(_ways(words, end, given, best), key=lambda way: way[0]))
    return Composition(contributions=best[-1][1])


def _ways(
    words: list[str],
    end: int,
    given: Mapping[str, list[str]],
    best: list[tuple[int, tuple[Contribution, ...]]],
) -> list[tuple[int, tuple[Contribution, ...]]]:
    """Return the ways to take apart the first `end` words, with their costs."""
    ways = []
    for start in range(end):
        run = words[start:end]
        for name, text in given.items():
            if cost := _cost(run, text):
                ways.append(_with(best[start], cost, name, run))
    ways.append(_with(best[end - 1], _UNKNOWN_WORD, UNKNOWN, words[end - 1 : end]))
    return ways


def _cost(run: list[str], text: list[str]) -> int:
    """Return what it costs to take a run of words as a source's; 0 if they are not."""
    if run == text:
        return _WHOLE
    places = range(len(text) - len(run) + 1)
    return _PART if any(text[at : at + len(run)] == run for at in places) else 0


def _with(
    before: tuple[int, tuple[Contribution, ...]], cost: int, name: str, run: list[str]
) -> tuple[int, tuple[Contribution, ...]]:
    spent, parts = before
    if name == UNKNOWN and parts and parts[-1].source == UNKNOWN:
        joined = Contribution(source=name, words=(*parts[-1].words, *run))
        return spent + cost, (*parts[:-1], joined)
    return spent + cost, (*parts, Contribution(source=name, words=tuple(run)))


def composition(vm: Vm) -> Composition:
    """Return where the words of a guest's /proc/cmdline come from.

    The built-in line is read from /proc/config.gz, that of the device tree from the guest's tree.
    The line of the bootloader is the one that QEMU was given; on Malta QEMU puts words in front.

    Args:
        vm: A guest that is ready.

    Returns:
        The line, taken apart.
    """
    line = vm.read("/proc/cmdline").strip()
    return take_apart(line, sources_of(vm))


def sources_of(vm: Vm) -> dict[str, str]:
    """Return the lines that a guest's kernel was offered, by their source.

    Args:
        vm: A guest that is ready.
    """
    bootloader = vm.boot.cmdline
    if fixed := vm.boot.arch.fixed_initramfs:
        bootloader = f"{fixed.announced(vm.read('/proc/cmdline'))} {bootloader}".strip()
    sources = {BOOTLOADER: bootloader, BUILTIN: _unquoted(vm.configuration.get("CMDLINE", ""))}
    if vm.exists(BOOTARGS):
        bootargs = vm.read(BOOTARGS).rstrip("\0")
        # Where the bootloader passes its line in the device tree, both are the same line.
        if bootargs != vm.boot.cmdline:
            sources[TREE] = bootargs
    return {name: text for name, text in sources.items() if text.strip()}


def _unquoted(value: str) -> str:
    """Return a text of a .config as it is meant."""
    return re.sub(r"\\(.)", r"\1", value.removeprefix('"').removesuffix('"'))


def assert_cmdline_from(vm: Vm, *sources: str) -> Composition:
    """Assert that a guest's command line consists of these sources' words, in this order.

    Args:
        vm: A guest that is ready.
        *sources: BOOTLOADER, BUILTIN or TREE.

    Returns:
        The line, taken apart.

    Raises:
        AssertionError: It is made of other sources; the message has each word's source, and what
            each source had offered.
    """
    found = composition(vm)
    if found.sources != sources:
        offered = "\n".join(f"  {name}: {text}" for name, text in sources_of(vm).items())
        shown = "\n".join(f"  {line}" for line in str(found).splitlines())
        raise AssertionError(
            f"{vm.label}: the command line is not made of {' + '.join(sources) or 'nothing'}\n"
            f"it is, in its order:\n{shown}\noffered were:\n{offered}"
        )
    return found
