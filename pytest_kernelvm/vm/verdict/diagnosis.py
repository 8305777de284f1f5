"""The verdict on a guest that did not do what it was asked for, from all that is known of it."""

from __future__ import annotations

import errno
import re

from pytest_kernelvm.errors import (
    BootHang,
    Evidence,
    GuestDied,
    GuestHang,
    GuestPanic,
    GuestSplat,
    KernelvmError,
    LaunchFailed,
    NoOutput,
)
from pytest_kernelvm.process import status_words, tail
from pytest_kernelvm.vm.klog.splats import Splat
from pytest_kernelvm.vm.klog.transcript import HALTED, last_lines, on_early_console, shown
from pytest_kernelvm.vm.verdict.hints import hints_in
from pytest_kernelvm.vm.verdict.symptoms import Symptoms
from pytest_kernelvm.vm.verdict.watch import Trouble, is_repetition

# QEMU's ShutdownCause (qapi/run-state.json) in words.
SHUTDOWNS = {
    "guest-shutdown": "the guest switched itself off",
    "guest-reset": "the guest restarted itself",
    "guest-panic": "the guest told QEMU of its panic",
    "subsystem-reset": "a part of the guest was reset",
    "host-signal": "a signal to QEMU",
    "host-ui": "QEMU's window was closed",
    "host-qmp-quit": "QMP's quit",
    "host-qmp-system-reset": "QMP's system_reset",
    "host-error": "an error of the host",
}

# A kernel that panics before it has a console restarts without a word.
MUTE = "too little memory for the kernel and its initramfs? `earlycon` may show more"

# What the kernel said right before a splat often says what it was doing.
LINES_BEFORE = 3


def diagnose(symptoms: Symptoms) -> KernelvmError:
    """Return the error that says what became of the guest, with its evidence.

    Args:
        symptoms: All that is known of it.

    Returns:
        The error.
    """
    if symptoms.splat and symptoms.splat.fatal:
        return _panicked(symptoms, symptoms.splat)
    if symptoms.trouble is Trouble.FLOOD:
        return _flooded(symptoms)
    if symptoms.status is not None:
        return _ended(symptoms, symptoms.status)
    if halted := HALTED.search(symptoms.console):
        return GuestDied(
            f"{symptoms.label}: the machine halted and cannot end",
            _evidence(symptoms, symptoms.for_what, f"the kernel said: {halted[0]}"),
        )
    if symptoms.began_anew:
        return GuestDied(
            f"{symptoms.label}: the guest booted anew",
            _evidence(
                symptoms,
                f"an answer to: {symptoms.for_what}",
                "the hello of another boot's agent",
            ),
        )
    if symptoms.trouble is Trouble.SPLAT and symptoms.splat:
        return _found_wrong(symptoms, symptoms.splat)
    return _hung(symptoms)


def _panicked(symptoms: Symptoms, panic: Splat) -> GuestPanic:
    why = panic.title.partition("not syncing: ")[2]
    led = [splat for splat in symptoms.shown_splats if splat is not panic]
    after = f", after: {led[0].title}" if led else ""
    return GuestPanic(
        f"{symptoms.label}: {why}{after}",
        _evidence(symptoms, symptoms.for_what, f"the kernel panicked {symptoms.when}"),
    )


def _found_wrong(symptoms: Symptoms, splat: Splat) -> GuestSplat:
    events = [
        each
        for number, each in enumerate(symptoms.refused)
        if not any(is_repetition(each, before) for before in symptoms.refused[:number])
    ]
    others = len(events) - 1
    more = f" and {others} more" if others else ""
    return GuestSplat(
        f"{symptoms.label}: {splat.title}",
        _evidence(
            symptoms,
            f"{symptoms.for_what}, and nothing wrong in the kernel's log",
            f"{splat.kind}{more} {symptoms.when}",
            next_step='a test that provokes it says so: vm.allow_splats("…", reason="…")',
        ),
    )


def _ended(symptoms: Symptoms, status: int) -> KernelvmError:
    """QEMU is gone: it never started, or it ended under the guest."""
    end = f"QEMU {status_words(status)}"
    if not symptoms.console and not symptoms.ready and status != 0:
        return LaunchFailed(
            f"{symptoms.label}: {end}",
            Evidence(
                expected="QEMU to start",
                seen=end,
                excerpt=tail(symptoms.qemu_log),
                where=(str(symptoms.qemu_log),),
                command=symptoms.argv,
            ),
        )
    why = SHUTDOWNS.get(symptoms.shutdown, symptoms.shutdown)
    mute = symptoms.shutdown == "guest-reset" and not symptoms.console and not symptoms.ready
    return GuestDied(
        f"{symptoms.label}: {why or end} {symptoms.when}",
        _evidence(symptoms, symptoms.for_what, end, next_step=MUTE if mute else ""),
    )


def _flooded(symptoms: Symptoms) -> KernelvmError:
    """The log is not whole, so that nobody can say that nothing was wrong in it."""
    limit = f"{symptoms.console_limit_bytes / (1 << 20):g} MiB"
    kind = GuestHang if symptoms.ready else BootHang
    return kind(
        f"{symptoms.label}: the console was flooded {symptoms.when}",
        _evidence(
            symptoms,
            f"{symptoms.for_what}, and at most {limit} on the console",
            "more than that; the rest was not kept and may contain a fault",
            next_step="if the test needs so much text, raise the ini option "
            "kernelvm_console_limit (MiB)",
        ),
    )


def _hung(symptoms: Symptoms) -> KernelvmError:
    if symptoms.trouble is Trouble.STOPPED:
        kind, what = GuestHang if symptoms.ready else BootHang, "a signal stopped QEMU"
        return kind(
            f"{symptoms.label}: {what} {symptoms.when}",
            _evidence(symptoms, symptoms.for_what, f"{what}; it is still there (state T)"),
        )
    within = f"within {symptoms.waited_s:.3g} s"
    splat = symptoms.splat
    after = f", after: {splat.title}" if splat else ""
    if symptoms.ready:
        state = "QMP's stop holds the guest" if symptoms.paused else "the guest runs and is silent"
        noise = f"; there came {symptoms.oddities}" if symptoms.oddities else ""
        return GuestHang(
            f"{symptoms.label}: no answer {within}{after}",
            _evidence(symptoms, f"an answer to: {symptoms.for_what}", f"{state}{noise}"),
        )
    if not symptoms.console.strip():
        return _silent(symptoms, within)
    early = "; only its early console spoke" if on_early_console(symptoms.console) else ""
    return BootHang(
        f"{symptoms.label}: the agent did not answer {within}{after}",
        _evidence(
            symptoms, "the agent's hello", f"the guest came as far as: {symptoms.reached}{early}"
        ),
    )


def _silent(symptoms: Symptoms, within: str) -> NoOutput:
    if symptoms.kernel_log:
        seen = "QEMU runs, its console is empty, and the kernel wrote a log into its memory"
        hint = "the kernel runs: look at console= and at the driver of the serial port"
    else:
        seen = "QEMU runs, its console is empty, and there is no kernel log in its memory"
        hint = "a kernel for another CPU or endianness says nothing; look at -cpu and the image"
    return NoOutput(
        f"{symptoms.label}: nothing on the console {within}",
        Evidence(
            expected="the kernel's banner",
            seen=seen,
            facts=_facts(symptoms),
            excerpt=last_lines(symptoms.kernel_log) or tail(symptoms.qemu_log),
            where=(str(symptoms.qemu_log),),
            command=symptoms.argv,
            next_step=hint,
        ),
    )


def _evidence(symptoms: Symptoms, expected: str, seen: str, next_step: str = "") -> Evidence:
    splats = symptoms.shown_splats
    if splats:
        above = symptoms.console.replace("\r", "").partition(splats[0].text)[0]
        before = last_lines(above, LINES_BEFORE)
        excerpt = f"{before}\n{shown(splats)}" if before else shown(splats)
    else:
        excerpt = last_lines(symptoms.console)
    steps = [next_step, *hints_in(symptoms.console), f"to boot it by hand: {symptoms.boot_command}"]
    incomplete = f" (incomplete: {symptoms.log_trouble})" if symptoms.log_trouble else ""
    return Evidence(
        expected=expected,
        seen=seen,
        facts=_facts(symptoms),
        excerpt=excerpt if symptoms.console else tail(symptoms.qemu_log),
        where=(f"{symptoms.console_log}{incomplete}", str(symptoms.qemu_log)),
        next_step="; ".join(step for step in steps if step),
    )


def _facts(symptoms: Symptoms) -> tuple[str, ...]:
    """Return what is known besides what was expected and seen."""
    facts = [f"reached: {symptoms.reached}"]
    if symptoms.arrived:
        stamp = _guest_time(symptoms)
        guest = f"guest {stamp:.6f} s; " if stamp is not None else ""
        facts.append(f"{'time' if symptoms.splat else 'last word'}: {guest}{symptoms.arrived}")
    if symptoms.status is not None:
        cause = f", SHUTDOWN {symptoms.shutdown}" if symptoms.shutdown else ""
        facts.append(f"QEMU: {status_words(symptoms.status)}{cause}")
    words = " / ".join(tail(symptoms.qemu_log, 3).splitlines())
    if words:
        facts.append(f"QEMU's words: {words}")
    if symptoms.trouble is None:
        facts.append(f"waited: {symptoms.description}")
    if symptoms.cpu:
        facts.append(f"CPU: {symptoms.cpu}")
    return tuple(facts)


def _guest_time(symptoms: Symptoms) -> float | None:
    if symptoms.splat:
        return symptoms.splat.guest_time_s
    stamps = re.findall(r"^\[ *(\d+\.\d+)\]", symptoms.console.replace("\r", ""), re.MULTILINE)
    return float(stamps[-1]) if stamps else None


def launch_failed(label: str, error: OSError, argv: str) -> LaunchFailed:
    """Return the error of a QEMU that the host did not let us start.

    Args:
        label: The guest's name in messages.
        error: The host's.
        argv: The command that starts the same by hand.

    Returns:
        The error.
    """
    spent = error.errno in (errno.EMFILE, errno.ENFILE)
    return LaunchFailed(
        f"{label}: QEMU was not started: {error.strerror or error}",
        Evidence(
            expected="descriptors, a process and room for logs",
            seen=str(error),
            command=argv,
            next_step="raise the limit of open files: ulimit -n" if spent else "",
        ),
    )
