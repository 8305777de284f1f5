"""A fake guest for tests: all is real but the guest itself.

A process of ours stands for QEMU (tests/fake_qemu): it has QEMU's command line, a process id, the
pipes of console and channel, and a monitor. In it a scripted agent answers the agent's protocol.
So everything of `vm/` and `session/` that is above QEMU runs as it does with a guest, in a fraction
of a second and without a kernel.

What the guest does is said in acts, one a line:

- `console TEXT`, `log TEXT`, `say TEXT`: the kernel says something on its console, in its log, or
  in both; `lose N`: so many records of the log are lost; `unreadable ERRNO`: from now on the log
  cannot be read
- `taint NUMBER`: what /proc/sys/kernel/tainted says
- `refuse CALL ERRNO`: a system call fails from now on; `refuse-qmp COMMAND`: QEMU refuses one
- `wait SECONDS`; `later SECONDS ACT`: an act is done later, beside all others
- `hello [BOOT_ID]`: the agent says hello; `version N`: with this version of the protocol
- `mute`: the agent answers nothing any more; `nonsense`: its replies are none; `damage`: its next
  frame is damaged
- `event NAME REASON`: QEMU tells of an event; `complain TEXT`: it says something on its stderr
- `exit STATUS`, `kill SIGNAL`: QEMU ends
- only in a program: `output TEXT`, `flood BYTES`, `errors TEXT`; `status N` or `die SIGNAL`: how it
  ends; `run-on`: it does not, until it is killed

`refuse-qmp` among the acts of a boot holds for guests that are restored, too.

The acts of a boot are given to `fake_bootable`. Later ones are done in the middle of a command:
`do(vm, …)` is a write(2) into a file, `vm.run(ACTS_PROGRAM, …)` a program.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_kernelvm.arch.registry import arch_named
from pytest_kernelvm.config.model import Machine
from pytest_kernelvm.guest.programs import Abi
from pytest_kernelvm.modules.tree import ModuleTree
from pytest_kernelvm.vm.agent.services import ServiceCatalogue
from pytest_kernelvm.vm.machine.bootable import Bootable
from pytest_kernelvm.vm.machine.start import boot_guest
from pytest_kernelvm.vm.machine.vm import Vm
from pytest_kernelvm.vm.qemu.argv import Boot
from pytest_kernelvm.vm.verdict.deadlines import TimeLimits
from tests.fake_qemu.agent import ACTS_FILE
from tests.fake_qemu.agent import ACTS_PROGRAM as ACTS_PROGRAM
from tests.fake_qemu.kernel import SYSCALLS

QEMU_ARCH = "fake"
REPOSITORY = Path(__file__).parent.parent
ARCH = dataclasses.replace(arch_named("aarch64"), qemu_arch=QEMU_ARCH)
ABI = Abi(
    syscalls=SYSCALLS,
    errnos={name: number for number, name in errno.errorcode.items()},
    open_flags={name: getattr(os, name) for name in dir(os) if name.startswith("O_")},
    ioctls={"RNDADDENTROPY": 1, "RNDRESEEDCRNG": 2},
)

BOOT = ("say Linux version 6.12.0", "say Run /init as init process", "hello")
WARNING = (
    "say ------------[ cut here ]------------",
    "say WARNING: CPU: 0 PID: 44 at net/core/x.c:7 x+0x0/0x4",
    "say Call trace:",
    "say  x+0x0/0x4",
    "say ---[ end trace 0000000000000000 ]---",
)
OOPS = (
    "say Unable to handle kernel NULL pointer dereference at virtual address 0000000000000000",
    "say Internal error: Oops: 0000000096000005 [#1] SMP",
    "say Call trace:",
    "say  x+0x0/0x4",
    "say ---[ end trace 0000000000000000 ]---",
)
PANIC = ("console Kernel panic - not syncing: sysrq triggered crash",)
RESET = ("event SHUTDOWN guest-reset", "wait 0.05", "exit 0")


def logged(acts: tuple[str, ...]) -> tuple[str, ...]:
    """Return acts whose words are in the kernel's log alone, as with loglevel=1."""
    return tuple(act.replace("say ", "log ", 1) for act in acts)


def shown(acts: tuple[str, ...]) -> tuple[str, ...]:
    """Return acts whose words are on the console alone, as when a program writes them there."""
    return tuple(act.replace("say ", "console ", 1) for act in acts)


@pytest.fixture
def fake_qemu(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the program that stands for QEMU in PATH."""
    directory = tmp_path_factory.mktemp("bin")
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    program = directory / ARCH.qemu_binary
    program.write_text(
        f"#!{sys.executable} -S\n"
        f"import sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from tests.fake_qemu.main import main\nmain()\n"
    )
    program.chmod(0o755)


def fake_bootable(
    directory: Path, *acts: str, boot_s: float = 10.0, command_s: float = 5.0
) -> Bootable:
    """Return what a fake guest is made of.

    directory: takes the files that stand for kernel and initramfs. acts: of its boot, by default
    those of one that goes well.
    """
    for name in ("Image", "initramfs"):
        (directory / name).write_text(name)
    boot = Boot(
        arch=ARCH,
        machine=Machine(memory_mib=1, cpu="max", fast_boot=False),
        image=directory / "Image",
        initramfs=directory / "initramfs",
        cmdline="console=ttyAMA0",
        extra=tuple(word for act in acts or BOOT for word in ("-act", act)),
    )
    return Bootable(
        label="fake",
        boot=boot,
        abi=ABI,
        limits=TimeLimits(boot_s=boot_s, command_s=command_s),
        boot_command="kernelvm boot fake",
        services=ServiceCatalogue((), ModuleTree(directory / "6.12.0"), {}),
    )


@contextlib.contextmanager
def fake_guest(directory: Path, *acts: str, command_s: float = 5.0) -> Iterator[Vm]:
    """Boot a fake guest that answers for what its kernel finds wrong; see fake_bootable."""
    with boot_guest(fake_bootable(directory, *acts, command_s=command_s), directory) as vm:
        vm.control.answer_for(boot=True)
        yield vm


def do(vm: Vm, *acts: str) -> None:
    """Have a fake guest do acts while it makes a system call."""
    vm.write(ACTS_FILE, "\n".join(acts))
