"""Whether a test left its guest as it found it, so that the next one may have it."""

from __future__ import annotations

from dataclasses import dataclass

from pytest_kernelvm.vm.machine.vm import Vm

# include/linux/kern_levels.h: warning and everything more urgent.
WARNING = 4
# Caches fill while tests run; a leak that matters is larger, or repeats.
SLAB_SLACK_KIB = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestState:
    """What a test may leave changed in a guest.

    Attributes:
        modules: Loaded modules: name and use count.
        processes: Processes of user space: number and program.
        mounts: The lines of /proc/mounts.
        files: The names in the root directory.
        last_record: The sequence number of the last record in the kernel's log, -1 for none.
        slab_kib: The memory of the kernel's objects, in KiB.
    """

    modules: frozenset[tuple[str, int]]
    processes: frozenset[str]
    mounts: frozenset[str]
    files: frozenset[str]
    last_record: int
    slab_kib: int


def guest_state(vm: Vm) -> GuestState:
    """Return the state of a guest now.

    Args:
        vm: A guest that is ready.
    """
    records = vm.dmesg.records
    return GuestState(
        modules=frozenset((module.name, module.use_count) for module in vm.modules),
        processes=frozenset(_processes(vm)),
        mounts=frozenset(vm.read("/proc/mounts").splitlines()),
        # The agent keeps a program's streams in files whose names begin with a dot.
        files=frozenset(name for name in vm.list("/") if not name.startswith(".")),
        last_record=records[-1].sequence if records else -1,
        slab_kib=_slab_kib(vm.read("/proc/meminfo")),
    )


def _processes(vm: Vm) -> list[str]:
    found = []
    for name in vm.list("/proc"):
        # Threads of the kernel have no command line; they come and go.
        if name.isdecimal():
            words = vm.read(f"/proc/{name}/cmdline").split("\0")
            if words[0]:
                found.append(f"{name} {words[0]}")
    return found


def _slab_kib(meminfo: str) -> int:
    for line in meminfo.splitlines():
        name, _, rest = line.partition(":")
        if name == "Slab":
            return int(rest.split()[0])
    return 0


def differences(vm: Vm, before: GuestState) -> list[str]:
    """Return how the state of a guest differs from an earlier one.

    Warnings in the kernel's log, and a growth of its memory, count as well.

    Args:
        vm: A guest that is ready.
        before: The earlier state.

    Returns:
        A line for each difference; empty if there is none.
    """
    after = guest_state(vm)
    found = []
    for what, old, new in (
        ("module", {name for name, _ in before.modules}, {name for name, _ in after.modules}),
        ("process", before.processes, after.processes),
        ("mount", before.mounts, after.mounts),
        ("file", before.files, after.files),
    ):
        found += [f"{what} left: {each}" for each in sorted(new - old)]
        found += [f"{what} gone: {each}" for each in sorted(old - new)]
    counts = dict(before.modules)
    for name, count in sorted(after.modules):
        if count != counts.get(name, count):
            found.append(f"module {name} is used {count} times instead of {counts[name]}")
    for record in vm.dmesg:
        if record.sequence > before.last_record and record.priority <= WARNING:
            found.append(f"kernel's log: {record.text}")
    if after.slab_kib > before.slab_kib + SLAB_SLACK_KIB:
        found.append(f"slab memory grew from {before.slab_kib} to {after.slab_kib} KiB")
    return found
