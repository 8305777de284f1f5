"""How fast this machine runs guests: a loop of two instructions, counted for a tenth of a second.

It is measured once for each machine, QEMU and way of running it, and stored. The count is divided
by the time that QEMU ran, so that a busy host measures the same as an idle one.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import Arch, SpinLoop
from pytest_kernelvm.config.model import Machine
from pytest_kernelvm.errors import HarnessError, KernelvmError
from pytest_kernelvm.guest.frames import FrameSplitter
from pytest_kernelvm.process import spawn
from pytest_kernelvm.store.digest import digest_of
from pytest_kernelvm.store.kinds import CALIBRATIONS
from pytest_kernelvm.store.store import StagingDirectory, Store
from pytest_kernelvm.vm.qemu.qmp import Qmp
from pytest_kernelvm.vm.qemu.snapshot import qemu_version
from pytest_kernelvm.vm.qemu.streams import connected
from pytest_kernelvm.vm.verdict.deadlines import Calibration, work_of

ROUNDS = 3
ROUND_S = 0.05
# Slower machines get more time than arch/'s figures say; faster ones do not get less.
LEAST_FACTOR, MOST_FACTOR = 1.0, 50.0


def calibration_of(store: Store, arch: Arch, machine: Machine) -> Calibration:
    """Return how fast this machine runs a kind of guest, measured unless the store has it.

    What prevents the measurement will prevent a boot as well, and is reported there.

    Args:
        store: Has, or gets, the measurement.
        arch: Of the guests.
        machine: Of the guests.

    Returns:
        The calibration; one that changes no limit where nothing could be measured.
    """
    spin = arch.spin
    if not spin:
        return Calibration()
    argv = _argv(arch, machine)
    try:
        key = {"argv": argv, "qemu": qemu_version(arch.qemu_binary), "host": _host()}
        label = f"how fast {arch.qemu_binary} runs here"
        entry = store.obtain(
            CALIBRATIONS,
            digest_of(key),
            lambda work: _measured(work, arch, spin, argv),
            label=label,
        )
        spins_per_s = float(store.describe(entry)["spins_per_s"])
    except (KernelvmError, OSError, ValueError, KeyError):
        return Calibration()
    return Calibration(
        factor=round(min(MOST_FACTOR, max(LEAST_FACTOR, spin.spins_per_s / spins_per_s)), 1),
        description=f"{spins_per_s / 1e6:.0f} million loops a second here, "
        f"{spin.spins_per_s / 1e6:.0f} where limits were set",
    )


def _host() -> str:
    """Return what distinguishes this machine from others that may share the store."""
    try:
        models = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        models = []
    return f"{platform.node()} {models[0] if models else platform.machine()}"


def _argv(arch: Arch, machine: Machine) -> tuple[str, ...]:
    argv = [arch.qemu_binary, "-M", arch.machine, "-cpu", machine.cpu, "-nodefaults"]
    argv += ["-display", "none", "-S"]
    return (*argv, *(arch.fast_boot_argv if machine.fast_boot else ()))


def _measured(
    work: StagingDirectory, arch: Arch, spin: SpinLoop, argv: tuple[str, ...]
) -> dict[str, Any]:
    program = work.directory / "spin"
    program.write_bytes(spin.code)
    with _monitored((*argv, "-bios", str(program)), arch) as (pid, qmp):
        counted, ran_s = _look(qmp, pid, spin)
        rates = []
        for _round in range(ROUNDS):
            qmp.query("cont")
            time.sleep(ROUND_S)
            qmp.query("stop")
            before, ran_before_s = counted, ran_s
            counted, ran_s = _look(qmp, pid, spin)
            rates.append(((counted - before) % (1 << arch.elf_class)) / (ran_s - ran_before_s))
    (work.entry / "rates").write_text("".join(f"{rate:.0f}\n" for rate in rates))
    return {"spins_per_s": max(rates)}


def _look(qmp: Qmp, pid: int, spin: SpinLoop) -> tuple[int, float]:
    """Return the counting register, and how long QEMU ran until now."""
    shown = qmp.monitor("info registers")
    found = re.search(spin.register, shown)
    done = work_of(pid)
    if not found or not done:
        raise HarnessError(f"no {spin.register} in QEMU's registers")
    return int(found[1], 16), done.ran_s


@contextlib.contextmanager
def _monitored(argv: tuple[str, ...], arch: Arch) -> Iterator[tuple[int, Qmp]]:
    """Run a QEMU that has nothing but its monitor."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kernelvm-")))
        streams, far = stack.enter_context(
            connected(splitter=FrameSplitter(arch.endianness), log=Path(os.devnull))
        )
        number = far.qmp.fileno()
        monitor = ("-chardev", f"socket,id=qmp,fd={number}", "-mon", "chardev=qmp,mode=control")
        process = stack.enter_context(
            spawn((*argv, *monitor), pass_fds=[number], output=directory / "qemu.log")
        )
        far.close()
        streams.start()
        yield process.pid, Qmp(streams)
