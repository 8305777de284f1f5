"""What a bundle says of its failure and its guests, as checked values.

A bundle may be somebody else's. What it says decides which of the bundle's own files QEMU gets, how
large a machine is and what its kernel's command line is. Which flags QEMU gets is decided here,
from values that cannot be more than they are. Nothing in it is a path.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.config.model import CPU_PATTERN, LEAST_MEMORY_MIB, Machine
from pytest_kernelvm.errors import BadInput, Evidence, Verdict
from pytest_kernelvm.foreign.files import file_kind, read_regular
from pytest_kernelvm.foreign.json_fields import LINE, SHA256, Fields, parse_json
from pytest_kernelvm.guest.programs import Abi
from pytest_kernelvm.vm.qemu.argv import NETWORKS, Boot, PlacedFile
from pytest_kernelvm.vm.qemu.snapshot import FILES

FORMAT = 2
ABOUT, GUEST, JOURNAL = "bundle.json", "guest.json", "journal.jsonl"
# Names of files that are loaded into the guest's memory: `loaded-0`, `loaded-1`, …
LOADED = "loaded"

# A guest's note has some hundred numbers, and a pair for each piece of text on its console.
_MOST_NOTE_BYTES = 32 << 20
_MOST_GUESTS = 32
_MOST_FILES = 1000
_MOST_LOADED = 8
_MOST_NUMBERS = 4000
_MOST_CONSOLE_PIECES = 1_000_000
_MOST_CMDLINE = 65536
_LONGEST_S = 1e9
_MOST_ADDRESS = (1 << 48) - 1
_ANY = r"(?s:.*)"
# A kernel's command line: one line of words.
_WORDS = rf"(?:\t|{LINE[:-1]})*"
_NAME_OF_C = r"[A-Za-z_][A-Za-z0-9_]{0,63}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FailureNote:
    """What was noted of a failure.

    Attributes:
        test: The test's id.
        verdict: The verdict's label.
        error: The error as the test's report had it: several lines, some written by the guest.
        at: When it was, in ISO 8601.
        version: Of this package.
        guests: The names of the guests' directories.
    """

    test: str
    verdict: str
    error: str
    at: str
    version: str
    guests: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestNote:
    """What was noted of a guest.

    Attributes:
        label: Its name in messages.
        boot: What was booted, with the bundle's own files, which are not looked at yet.
        digests: The sha256 of these files, by name.
        abi: Its numbers.
        boot_s: The timeout of its boot.
        command_s: The timeout of a command.
        qemu: The first line of `--version` of its QEMU.
        kernel: The digest of its kernel's store entry, empty if that was made otherwise.
        started_s: When it was launched, in seconds since the first launch of the test.
        ready_s: How long its agent took to answer, 0 if it never did.
        snapshot: What Snapshot.from_note takes, and the sha256 of its files; None if it was booted.
        saved: What Snapshot.from_note takes of the state in which the failure left it; None if
            there is none.
        why_not_saved: Why there is none.
    """

    label: str
    boot: Boot
    digests: Mapping[str, str]
    abi: Abi
    boot_s: float
    command_s: float
    qemu: str
    kernel: str
    started_s: float
    ready_s: float
    snapshot: Mapping[str, Any] | None
    saved: Mapping[str, Any] | None
    why_not_saved: str


def check_files(directory: Path) -> None:
    """Refuse a directory with too many entries, or with others than files and directories.

    Args:
        directory: An unpacked bundle from anywhere.

    Raises:
        BadInput: It has such.
    """
    pending, count = [directory], 0
    while pending:
        for path in sorted(pending.pop().iterdir()):
            mode = path.lstat().st_mode
            count += 1
            if stat.S_ISDIR(mode) and count <= _MOST_FILES:
                pending.append(path)
            elif not stat.S_ISREG(mode) or count > _MOST_FILES:
                raise BadInput(
                    f"{directory} is no bundle",
                    Evidence(
                        expected=f"files and directories, at most {_MOST_FILES}",
                        seen=f"{ascii(str(path.relative_to(directory)))[:200]}: {file_kind(mode)}",
                    ),
                )


def read_failure(directory: Path) -> FailureNote:
    """Return what a bundle says of its failure.

    Args:
        directory: The bundle's.

    Raises:
        BadInput: Its note is damaged, or of another version's format.
    """
    place = directory / ABOUT
    about = Fields(
        parse_json(read_regular(place, _MOST_NOTE_BYTES, follow=False), str(place)), str(place)
    )
    found = about.whole("format", 0, 1 << 31)
    if found != FORMAT:
        raise BadInput(
            f"{directory} is a bundle of another version",
            Evidence(
                expected=f"format {FORMAT}, as this version of pytest-kernelvm writes",
                seen=f"format {found}",
                next_step="replay it with the version that wrote it; bundle.json says which",
            ),
        )
    versions = about.fields("versions")
    version = versions.text("pytest-kernelvm", shape="a version", most=100)
    for name in ("python", "host"):
        versions.text(name, shape="a line", most=1000)
    versions.done()
    note = FailureNote(
        test=about.text("test", pattern=_ANY, shape="a test's name", most=100_000),
        verdict=about.choice("verdict", [verdict.label for verdict in Verdict]),
        error=about.text("error", pattern=_ANY, shape="a text", most=_MOST_NOTE_BYTES),
        at=about.text("at", pattern=r"[0-9T:.+Z-]{1,40}", shape="a date with a time"),
        version=version,
        guests=_guests(about),
    )
    about.done()
    return note


def _guests(about: Fields) -> tuple[str, ...]:
    names = about.items("guests", _MOST_GUESTS)
    for number, name in enumerate(names):
        if name != f"guest-{number}":
            raise about.refused(f"guests[{number}]", f"guest-{number}", ascii(name)[:80])
    if not names:
        raise about.refused("guests", "one guest at least", "none")
    return tuple(names)


def read_guest(directory: Path) -> GuestNote:
    """Return what a bundle says of a guest; raises BadInput if the note is damaged.

    Args:
        directory: The guest's part of the bundle.

    Returns:
        What the note says, with values that cannot do harm.
    """
    place = directory / GUEST
    about = Fields(
        parse_json(read_regular(place, _MOST_NOTE_BYTES, follow=False), str(place)), str(place)
    )
    digests = _digests(about.fields("files"))
    limits, abi = about.fields("limits"), about.fields("abi")
    note = GuestNote(
        label=about.text("label", pattern=rf"{LINE}", shape="a line", most=300),
        boot=_boot(about.fields("boot"), digests, directory),
        digests=digests,
        abi=Abi(
            **{
                each.name: abi.numbers_by_name(each.name, _NAME_OF_C, _MOST_NUMBERS)
                for each in fields(Abi)
            }
        ),
        boot_s=limits.number("boot_s", 0.01, _LONGEST_S),
        command_s=limits.number("command_s", 0.01, _LONGEST_S),
        qemu=about.text("qemu", shape="a line", most=1000),
        kernel=about.text("kernel", pattern=rf"(?:{SHA256})?", shape="a digest"),
        started_s=about.number("started_s", 0, _LONGEST_S),
        ready_s=about.number("ready_s", 0, _LONGEST_S),
        snapshot=_snapshot(about.fields_or_none("snapshot"), digests=True),
        saved=_snapshot(about.fields_or_none("left"), digests=False),
        why_not_saved=about.text("not_left", pattern=_ANY, shape="a text", most=100_000),
    )
    # For people who look into the file.
    for name in ("by_hand", "argv"):
        about.text(name, pattern=_ANY, shape="a text", most=_MOST_NOTE_BYTES)
    for each in (limits, abi, about):
        each.done()
    return note


def _file_names() -> Iterator[str]:
    """Give the names that a guest's files can have: those of the fields of Boot that are paths."""
    yield from ("image", "initramfs", "firmware", "root", "device_tree")
    yield from (f"{LOADED}-{number}" for number in range(_MOST_LOADED))


def _digests(files: Fields) -> dict[str, str]:
    found = {}
    for name in _file_names():
        if files.has(name):
            found[name] = files.text(name, pattern=SHA256, shape="a sha256 in hex")
    files.done()
    return found


def _boot(given: Fields, digests: Mapping[str, str], directory: Path) -> Boot:
    arch = ARCHES[given.choice("arch", ARCHES)]
    addresses = given.whole_numbers("loaded", 0, _MOST_ADDRESS, _MOST_LOADED)
    wanted = {"image", *(f"{LOADED}-{number}" for number in range(len(addresses)))}
    if missing := sorted(wanted - digests.keys()):
        raise given.refused("loaded" if missing != ["image"] else "image", "a file for it", "none")

    def optional(name: str) -> Path | None:
        return directory / name if name in digests else None

    boot = Boot(
        arch=arch,
        machine=_machine(given.fields("machine"), arch),
        image=directory / "image",
        initramfs=optional("initramfs"),
        firmware=optional("firmware"),
        root=optional("root"),
        device_tree=optional("device_tree"),
        cmdline=given.text("cmdline", pattern=_WORDS, shape="one line", most=_MOST_CMDLINE),
        fixed_initramfs=given.flag("fixed_initramfs"),
        shared_console=given.flag("shared_console"),
        network=given.choice("network", ["", *NETWORKS]),
        loaded=tuple(
            PlacedFile(file=directory / f"{LOADED}-{number}", address=address)
            for number, address in enumerate(addresses)
        ),
        root_address=given.whole("root_address", 0, _MOST_ADDRESS),
        root_words=given.text("root_words", pattern=_WORDS, shape="one line", most=_MOST_CMDLINE),
    )
    given.done()
    return boot


def _machine(given: Fields, arch: Arch) -> Machine:
    most = max(arch.max_memory_mib, arch.uboot.memory_mib if arch.uboot else 0)
    machine = Machine(
        memory_mib=given.whole("memory_mib", LEAST_MEMORY_MIB, most),
        cpu=given.text("cpu", pattern=CPU_PATTERN, shape="a CPU model", most=200),
        fast_boot=given.flag("fast_boot"),
        sandbox=given.flag("sandbox"),
    )
    given.done()
    return machine


def _snapshot(given: Fields | None, *, digests: bool) -> Mapping[str, Any] | None:
    """Return what Snapshot.from_note is to know, and the digests of its files."""
    if given is None:
        return None
    about: dict[str, Any] = {
        "request_id": given.whole("request_id", 0, (1 << 32) - 1),
        "boot_id": given.whole("boot_id", 0, (1 << 32) - 1),
        "clock_offset_s": given.number("clock_offset_s", -1e11, 1e11),
        "taint": given.whole("taint", 0, (1 << 63) - 1),
        "console_ages_s": _ages(given),
    }
    if digests:
        files = given.fields("sha256")
        about["sha256"] = {
            name: files.text(name, pattern=SHA256, shape="a sha256 in hex") for name in FILES
        }
        files.done()
    given.done()
    return about


def _ages(given: Fields) -> tuple[tuple[float, int], ...]:
    pairs = given.items("console_ages_s", _MOST_CONSOLE_PIECES)
    for number, pair in enumerate(pairs):
        fits = isinstance(pair, list) and len(pair) == 2
        if not fits or not all(type(value) in (int, float) for value in pair):
            raise given.refused(f"console_ages_s[{number}]", "two numbers", ascii(pair)[:80])
        if not abs(pair[0]) <= _LONGEST_S or type(pair[1]) is not int or pair[1] < 0:
            raise given.refused(f"console_ages_s[{number}]", "an age and a place", str(pair)[:80])
    return tuple((float(age_s), place) for age_s, place in pairs)


def shown_line(text: str) -> str:
    """Return a text as one line that cannot command a terminal.

    Args:
        text: From a bundle; it may contain anything.
    """
    return "".join(
        char if char.isprintable() else repr(char)[1:-1] for char in re.sub(r"\s+", " ", text)
    )
