"""What consoles show.

consoles/*.txt are recorded boots; the splats in them are composed from the formats in the kernel's
source, the panics but malta_oops_panic are recorded as well.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kernelvm.vm.transcript import HALTED, around_end, read_transcript

CONSOLES = Path(__file__).parent / "consoles"


def console(name: str) -> str:
    return (CONSOLES / f"{name}.txt").read_text()


@pytest.mark.parametrize(
    ("name", "milestone", "panic"),
    [
        ("malta_early_hang", "the kernel's banner", ""),
        ("aarch64_console_hang", "the console", ""),
        (
            "aarch64_no_root",
            "the initramfs",
            "VFS: Unable to mount root fs on unknown-block(0,0)",
        ),
        ("malta_ready", "init", ""),
        (
            "aarch64_init_exited",
            "init",
            "Attempted to kill init! exitcode=0x00000300",
        ),
        ("aarch64_sysrq_crash", "init", "sysrq triggered crash"),
        ("aarch64_quiet_panic", "", "Attempted to kill init! exitcode=0x00000300"),
        ("malta_oops_panic", "init", "Fatal exception"),
        ("malta_halted", "init", ""),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_how_far_and_how_it_ended(name: str, milestone: str, panic: str, line_end: str) -> None:
    found = read_transcript(console(name).replace("\n", line_end))
    assert (found.milestone, found.panic) == (milestone, panic)


@pytest.mark.parametrize(
    ("name", "splats"),
    [
        ("malta_ready", []),
        ("aarch64_sysrq_crash", []),
        (
            "malta_oops_panic",
            [
                "CPU 0 Unable to handle kernel paging request at virtual address 00000000, "
                "epc == c0b0a01c, ra == 80100b64",
                "Oops[#1]:",
            ],
        ),
        ("malta_bug", ["Kernel bug detected[#1]:"]),
        (
            "aarch64_oops",
            [
                "Unable to handle kernel NULL pointer dereference at virtual address "
                "0000000000000000",
                "Internal error: Oops: 0000000096000044 [#1] SMP",
            ],
        ),
        (
            "aarch64_warning",
            [
                "WARNING: CPU: 0 PID: 44 at net/netfilter/nf_conntrack_core.c:2689 "
                "nf_conntrack_cleanup_net_list+0x158/0x164 [nf_conntrack]"
            ],
        ),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_splats(name: str, splats: list[str], line_end: str) -> None:
    assert list(read_transcript(console(name).replace("\n", line_end)).splats) == splats


@pytest.mark.parametrize(
    "line",
    [
        "BUG: KASAN: slab-out-of-bounds in kmalloc_oob_right+0xa8/0xbc",
        "BUG: scheduling while atomic: init/1/0x00000002",
        "kernel BUG at mm/slub.c:4385!",
        "INFO: task modprobe:31 blocked for more than 120 seconds.",
        "watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [modprobe:31]",
        "Unhandled kernel unaligned access[#1]:",
    ],
)
def test_first_lines_of_splats(line: str) -> None:
    for prefix in ("", "[   12.345678] "):
        assert read_transcript(f"{prefix}{line}\n").splats == (line,)


@pytest.mark.parametrize(
    "line",
    [
        "pci 0000:00:00.0: [Firmware Bug]: BAR 1: invalid; can't size",
        "test: this is not a BUG: really",
        "WARNING: this is not the kernel's",
        "printk: legacy bootconsole [uart8250] enabled",
    ],
)
def test_harmless_lines(line: str) -> None:
    found = read_transcript(f"[    0.430218] {line}\n")
    assert (found.milestone, found.panic, found.splats) == ("", "", ())


def test_nothing_shows_nothing() -> None:
    found = read_transcript("")
    assert (found.milestone, found.panic, found.splats) == ("", "", ())


def test_only_a_machine_that_cannot_end_has_halted() -> None:
    halted = [
        path.stem for path in sorted(CONSOLES.glob("*.txt")) if HALTED.search(path.read_text())
    ]
    assert halted == ["malta_halted"]


def test_an_end_without_splat_is_the_last_lines() -> None:
    lines = console("malta_ready").splitlines()
    assert around_end(console("malta_ready")).splitlines() == lines[-25:]
    assert around_end(console("malta_ready"), lines=3).splitlines() == lines[-3:]
    assert around_end("one\ntwo\n") == "one\ntwo"


def test_an_end_with_splat_begins_two_lines_before_it() -> None:
    excerpt = around_end(console("aarch64_warning")).splitlines()
    assert excerpt[0].endswith("Run /init as init process")
    assert excerpt[1].endswith("------------[ cut here ]------------")
    assert "WARNING: CPU: 0" in excerpt[2]
    assert excerpt[-1].endswith("---[ end trace 0000000000000000 ]---")


def test_a_splat_in_the_first_lines_is_shown_whole() -> None:
    """As after `quiet`, which leaves nothing but the panic."""
    text = console("aarch64_quiet_panic")
    assert around_end(text) == text.rstrip("\n")
    assert around_end("banner\n" + text) == "banner\n" + text.rstrip("\n")


def test_a_splat_out_of_reach_does_not_drown_the_end() -> None:
    chatter = "".join(f"[   10.{number:06}] chatter\n" for number in range(500))
    excerpt = around_end(console("malta_bug") + chatter)
    assert excerpt.splitlines() == chatter.splitlines()[-100:]


def test_carriage_returns_are_left_out() -> None:
    assert "\r" not in around_end(console("malta_oops_panic").replace("\n", "\r\n"))
