"""QEMU's command line, computed from what is to be booted; nothing is started here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.config.model import Machine

# The first stage of a boot lies beside its kernel under this name (first_stage.py).
STAGE = "first-stage"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedFile:
    """A file whose bytes are in memory from reset on.

    Attributes:
        file: The file.
        address: The physical address of its first byte.
    """

    file: Path
    address: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Boot:
    """What QEMU boots.

    Attributes:
        arch: The architecture.
        machine: Memory, CPU model and the like.
        image: The kernel.
        initramfs: The archive, None for none.
        cmdline: The command line that the bootloader passes.
        fixed_initramfs: Whether the initramfs lies where the kernel's built-in command line says,
            instead of where the bootloader says.
        shared_console: Whether the agent's frames come and go on the console.
        network: `user` for QEMU's own network, from which nothing gets out but what is forwarded;
            `outside` for one that reaches what the host reaches; `link` for a cable to another
            guest; empty for no card.
        loaded: Further files that are in memory.
        extra: Further QEMU flags; a boot from a bundle has none.
        firmware: What the processor starts with, and which then has to find the kernel by itself;
            None for QEMU's own bootloader, which is given the kernel.
        root: The image of a root file system in memory, None for none.
        root_address: The physical address where that lies.
        root_words: The words of `cmdline` that describe it.
        device_tree: A file that QEMU passes instead of its own tree, None for its own.
    """

    arch: Arch
    machine: Machine
    image: Path
    initramfs: Path | None
    cmdline: str
    fixed_initramfs: bool = False
    shared_console: bool = False
    network: str = ""
    loaded: tuple[PlacedFile, ...] = ()
    extra: tuple[str, ...] = ()
    firmware: Path | None = None
    root: Path | None = None
    root_address: int = 0
    root_words: str = ""
    device_tree: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Backends:
    """The -chardev and -netdev backends of a guest; empty for none.

    Attributes:
        console: The backend of the console's serial port.
        channel: The backend of the agent's port.
        qmp: The backend of QEMU's machine protocol.
        network: The -netdev backend; empty for what the boot's kind of network needs.
    """

    console: str
    channel: str
    qmp: str = ""
    network: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryFile:
    """A file that holds the guest's memory.

    Attributes:
        path: The file.
        shared: Whether what the guest writes goes into the file (share=on); else it stays with this
            guest.
    """

    path: Path
    shared: bool


# A guest that breaks out of the machine into QEMU can start no program and gain no privilege.
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"

# What the network card is attached to, by kind of network. For a link whose other end is missing it
# is a hub with no other member.
NETDEV = "net0"
NETWORKS = {"user": "user,restrict=on", "outside": "user", "link": "hubport,hubid=0"}

# Ctrl-A x leaves QEMU, Ctrl-A c opens its monitor.
ON_TERMINAL = Backends(console="stdio,mux=on,signal=off", channel="null")


def inherited_backends(
    *, console: Path, channel: Path, qmp: int, link: int | None = None
) -> Backends:
    """Return backends that QEMU inherits: nobody else can connect; its death reads as their end.

    Args:
        console: The name of the console's serial line, as `named_pipes` made it.
        channel: The name of the channel's serial line.
        qmp: The descriptor of a connected socket.
        link: The descriptor of the cable to another guest, None if there is none.
    """
    return Backends(
        console=f"pipe,path={_escaped(console)}",
        channel=f"pipe,path={_escaped(channel)}",
        qmp=f"socket,fd={qmp}",
        network="" if link is None else f"socket,fd={link}",
    )


def qemu_argv(
    boot: Boot, backends: Backends, *, memory: MemoryFile | None = None, incoming: bool = False
) -> tuple[str, ...]:
    """Return the whole command line.

    -no-reboot and panic=-1 make a panic end QEMU. -nodefaults spares devices and option ROMs.
    -no-user-config leaves out what the machine's administrator set for other guests.

    Args:
        boot: What is booted.
        backends: What console, channel and QMP are connected to.
        memory: The file with the guest's memory; None for anonymous memory.
        incoming: Whether QEMU waits for the QMP command that says where a machine's state comes
            from, instead of starting it.
    """
    arch = boot.arch
    argv = [arch.qemu_binary, "-M", arch.machine, "-cpu", boot.machine.cpu]
    if boot.machine.sandbox:
        argv += ["-sandbox", SANDBOX]
    argv += ["-m", f"{boot.machine.memory_mib}M", "-no-user-config", "-nodefaults"]
    argv += ["-display", "none", "-no-reboot"]
    # First, as aarch64's kernel counts virtio devices from the last one, and knows the agent's
    # port by its number.
    argv += _network(boot, backends)
    argv += _chardev("console", backends.console) + list(arch.console_argv)
    argv += _chardev("channel", backends.channel) + list(arch.channel_argv)
    if backends.qmp:
        argv += [*_chardev("qmp", backends.qmp), "-mon", "chardev=qmp,mode=control"]
    elif "mux=on" in backends.console:
        argv += ["-mon", "chardev=console,mode=readline"]
    # A snapshot has its kernel in the machine's memory.
    if not incoming:
        argv += _booted_from(boot)
    if boot.machine.fast_boot:
        argv += arch.fast_boot_argv
    if memory:
        argv += _memory(memory, boot.machine.memory_mib)
    if incoming:
        argv += ["-incoming", "defer"]
    for each in boot.loaded:
        argv += loader_argv(each.file, each.address)
    return (*argv, *boot.extra)


def _booted_from(boot: Boot) -> list[str]:
    if boot.firmware:
        return ["-bios", str(boot.firmware), *_initramfs(boot)]
    argv = ["-kernel", str(boot.image), *_initramfs(boot)]
    if boot.root:
        argv += loader_argv(boot.root, boot.root_address)
    if boot.device_tree:
        argv += ["-dtb", str(boot.device_tree)]
    return [*argv, "-append", boot.cmdline] if boot.cmdline else argv


def _network(boot: Boot, backends: Backends) -> list[str]:
    if not boot.network:
        return []
    kind, comma, options = (backends.network or NETWORKS[boot.network]).partition(",")
    return ["-netdev", f"{kind},id={NETDEV}{comma}{options}", *boot.arch.network_argv]


def _memory(memory: MemoryFile, size_mib: int) -> list[str]:
    share = "on" if memory.shared else "off"
    where = f"size={size_mib}M,mem-path={_escaped(memory.path)},share={share}"
    return [
        "-object",
        f"memory-backend-file,id=memory,{where}",
        "-machine",
        "memory-backend=memory",
    ]


def _chardev(name: str, backend: str) -> list[str]:
    kind, comma, options = backend.partition(",")
    return ["-chardev", f"{kind},id={name}{comma}{options}"]


def _initramfs(boot: Boot) -> list[str]:
    if not boot.initramfs:
        return []
    fixed = boot.arch.fixed_initramfs
    if boot.fixed_initramfs and fixed:
        return loader_argv(boot.initramfs, fixed.address)
    return ["-initrd", str(boot.initramfs)]


def loader_argv(file: Path, address: int) -> list[str]:
    """Return the flags that have a file's bytes in memory from reset on.

    Args:
        file: The file.
        address: The physical address of the first byte.
    """
    return ["-device", f"loader,file={_escaped(file)},addr={address:#x},force-raw=on"]


def _escaped(path: Path) -> str:
    """QEMU's option parser ends a value at a comma; two stand for one."""
    return str(path).replace(",", ",,")
