"""What consoles show: how far a guest came, and what of it an error shows.

consoles/*.txt are recorded boots; the splats in aarch64_*.txt and malta_*.txt are composed from the
formats in the kernel's source, the panics but malta_oops_panic are recorded as well.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_kernelvm.vm.klog.splats import read_splats
from pytest_kernelvm.vm.klog.transcript import (
    HALTED,
    SPLAT_LINES,
    around_end,
    chain,
    last_lines,
    milestone,
    on_early_console,
    shown,
)

CONSOLES = Path(__file__).parent / "consoles"


def console(name: str) -> str:
    return (CONSOLES / f"{name}.txt").read_text()


@pytest.mark.parametrize(
    ("name", "reached"),
    [
        ("malta_early_hang", "the early console"),
        ("aarch64_console_hang", "initcalls"),
        ("aarch64_no_root", "the initramfs"),
        ("malta_ready", "init"),
        ("aarch64_init_exited", "init"),
        ("aarch64_sysrq_crash", "init"),
        ("aarch64_quiet_panic", "nothing yet"),
        ("malta_oops_panic", "init"),
        ("malta_halted", "init"),
    ],
)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_milestones_of_recorded_consoles(name: str, reached: str, line_end: str) -> None:
    assert milestone(console(name).replace("\n", line_end)) == reached


BOOT = (
    ("", "nothing yet"),
    ("U-Boot 2023.01\n=> bootm\n", "firmware"),
    ("[    0.000000] Linux version 6.12.117\n", "the kernel's banner"),
    ("[    0.000000] printk: legacy bootconsole [pl11] enabled\n", "the early console"),
    ("[    0.000000] Memory: 120000K/131072K available\n", "memory"),
    ("[    0.010000] printk: legacy console [ttyAMA0] enabled\n", "the console"),
    ("[    0.020000] devtmpfs: initialized\n", "initcalls"),
    ("[    0.300000] Trying to unpack rootfs image as initramfs...\n", "the initramfs"),
    ("[    0.400000] Freeing unused kernel memory: 832K\n", "freeing of init memory"),
    ("[    0.410000] Run /init as init process\n", "init"),
)


def test_the_milestones_in_their_order() -> None:
    text = ""
    for line, reached in BOOT:
        text += line
        assert milestone(text) == reached


def test_a_kernel_without_times_is_no_firmware() -> None:
    assert milestone("Linux version 6.12.117\n") == "the kernel's banner"


def test_the_early_console_is_told_from_the_other() -> None:
    assert not on_early_console("")
    assert on_early_console("".join(line for line, _ in BOOT[:5]))
    assert not on_early_console("".join(line for line, _ in BOOT[:6]))


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


def test_an_end_with_splat_begins_with_it() -> None:
    text = console("lkdtm_aarch64_warning")
    [splat] = read_splats(text)
    assert around_end(text, lines=5).startswith(splat.text)


def test_a_splat_out_of_reach_is_shown_before_the_end() -> None:
    chatter = "".join(f"[   10.{number:06}] chatter\n" for number in range(500))
    excerpt = around_end(console("malta_bug") + chatter).splitlines()
    [splat] = read_splats(console("malta_bug"))
    assert "\n".join(excerpt[: splat.text.count("\n") + 1]) == splat.text
    assert excerpt[-26:] == ["…", *chatter.splitlines()[-25:]]


def test_a_splat_within_the_end_is_not_shown_twice() -> None:
    text = "[    1.0] banner\n" + console("splat_rss")
    assert around_end(text) == text.rstrip("\n")


def test_carriage_returns_are_left_out() -> None:
    text = console("malta_oops_panic").replace("\n", "\r\n")
    assert "\r" not in around_end(text)
    assert "\r" not in last_lines(text)


def test_a_panic_is_shown_with_what_led_to_it() -> None:
    splats = read_splats(console("malta_oops_panic"))
    assert chain(splats, splats[1]) == splats
    assert shown(splats).endswith("Kernel panic - not syncing: Fatal exception")


def test_a_panic_is_not_shown_with_what_has_to_do_with_something_else() -> None:
    chatter = "".join(f"[   10.{number:06}] chatter\n" for number in range(100))
    splats = read_splats(console("malta_bug") + chatter + console("aarch64_quiet_panic"))
    assert [splat.kind for splat in splats] == ["BUG", "panic"]
    assert chain(splats, splats[1]) == splats[1:]


def test_what_is_too_long_for_a_screen_keeps_its_ends() -> None:
    text = "[    1.0] Kernel panic - not syncing: x\n" + "".join(
        f"[    1.0] line {number}\n" for number in range(100)
    )
    lines = shown(read_splats(text)).splitlines()
    assert len(lines) == SPLAT_LINES
    assert lines[0].endswith("not syncing: x")
    assert lines[-1].endswith("line 99")
    assert "… 46 lines are in the log …" in lines
