"""What a vm-config may say: one row for each key, in the classes whose values it becomes."""

from __future__ import annotations

from pathlib import Path

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.arch.registry import ARCHES
from pytest_kernelvm.config.context import CellContext
from pytest_kernelvm.config.kernel import KernelConfig
from pytest_kernelvm.config.roots import ROOT, Root
from pytest_kernelvm.config.services import SERVICES, Service, with_shipped
from pytest_kernelvm.config.typed_yaml.expected import (
    Flag,
    ListOf,
    MapOf,
    Number,
    Text,
    WholeNumber,
)
from pytest_kernelvm.config.typed_yaml.rows import Record, given, key, section, yaml_mapping
from pytest_kernelvm.errors import BadInput, Evidence

# Whose modprobe the guest runs: ours (none), or that of another userland besides.
USERLANDS = ("none", "kmod", "busybox")
LEAST_MEMORY_MIB = 32
# A CPU model of QEMU, then features that are switched on or off or set to a number, and no more.
CPU_PATTERN = (
    r"[A-Za-z0-9][A-Za-z0-9_.+-]*"
    r"(?:,(?:[+-][a-z0-9_.-]+|[a-z0-9_.-]+=(?:on|off|yes|no|true|false|(?:0x)?[0-9a-f]+)))*"
)

_MODULE = Text(doc="A module's name.", pattern=r"[A-Za-z0-9_.:+-]+", shape="a module's name")


@yaml_mapping
class ModprobeConfig:
    """The guest's /etc/modprobe.d.

    Attributes:
        options: (module, its parameters), as in a line `options`.
        blacklist: Modules that are not loaded for an alias.
    """

    options: tuple[tuple[str, str], ...] = key(
        MapOf(
            doc="Parameters of modules, by the module's name.",
            key=_MODULE,
            placeholder="MODULE",
            item=Text(
                doc="As after the module's name in an options line.",
                pattern=r"[^\n\r]+",
                shape="one line",
            ),
        ),
        convert=lambda options, _context: tuple(options.items()),
        default=(),
    )
    blacklist: tuple[str, ...] = key(
        ListOf(doc="Modules that modprobe does not load by their aliases.", item=_MODULE),
        default=(),
    )


@yaml_mapping
class Cookie:
    """The word that makes the kernel obey the bootloader's command line.

    A cookie is true if there is one.

    Attributes:
        text: The word, empty if the kernel always obeys the bootloader.
        whole_word: Whether it must be a word of its own and not part of another.
    """

    text: str = key(
        Text(
            doc="The kernel obeys the bootloader's command line only if it contains this.",
            pattern=r"[A-Za-z0-9_.=-]+",
            shape="one word of letters, digits, and _.=-",
        )
    )
    whole_word: bool = key(
        Flag(doc="Whether it must be a word of its own, not part of one."), default=False
    )

    def __bool__(self) -> bool:
        return bool(self.text)


NO_COOKIE = Cookie(text="")


@yaml_mapping
class GuestConfig:
    """What is in the initramfs besides agent and modules.

    Attributes:
        userland: Whose modprobe there is, one of USERLANDS.
    """

    userland: str = key(
        Text(
            doc="Whose modprobe the guest runs: ours (none), kmod's or busybox's.",
            allowed=USERLANDS,
        ),
        default="none",
    )


def _memory_mib(memory_mib: int, context: CellContext) -> int:
    arch = context.arch
    if memory_mib > arch.max_memory_mib:
        raise BadInput(
            f"{memory_mib} MiB are more than a {arch.machine} machine has in one piece",
            Evidence(where=(str(context.file),), expected=f"at most {arch.max_memory_mib} MiB"),
        )
    return memory_mib


@yaml_mapping
class Machine:
    """What QEMU gives the guest.

    Attributes:
        memory_mib: Memory in MiB.
        cpu: The value of QEMU's -cpu.
        fast_boot: Whether QEMU gets the options of arch/ that shorten the boot.
        sandbox: Whether QEMU runs in its seccomp filter (-sandbox).
    """

    memory_mib: int = key(
        WholeNumber(doc="Memory in MiB.", least=LEAST_MEMORY_MIB, most=4096),
        convert=_memory_mib,
        default=128,
    )
    cpu: str = key(
        Text(doc="The CPU model, as for QEMU's -cpu.", pattern=CPU_PATTERN, shape="a CPU model"),
        default_from=lambda _written, context: context.arch.cpu,
        default_text="the architecture's",
    )
    fast_boot: bool = key(
        Flag(doc="Whether QEMU gets options that shorten the boot."), default=True
    )
    sandbox: bool = key(
        Flag(doc="Whether QEMU runs in its seccomp filter (-sandbox)."), default=True
    )


@yaml_mapping
class Timeouts:
    """How long things may take before we give up, in seconds.

    Attributes:
        boot_s: From the launch of QEMU until the agent answers.
        command_s: One request to the agent.
        build_s: One kernel build.
    """

    boot_s: float = key(
        Number(doc="Seconds from QEMU's launch until the agent answers.", least=0.1, most=3600),
        default=60.0,
    )
    command_s: float = key(
        Number(doc="Seconds of one request to the agent, such as a command.", least=0.1, most=3600),
        default=20.0,
    )
    build_s: float = key(
        Number(doc="Seconds of one kernel build.", least=1, most=86400), default=7200.0
    )


@yaml_mapping
class CellConfig:
    """One cell as it is written: a machine with one kernel.

    Attributes:
        id: The cell's name, such as `malta-6.12`.
        name: The vm-config's name: its file's name without suffix.
        file: The vm-config.
        arch: The architecture.
        kernel: How the kernel is made.
        modules: Modules that are in the initramfs by default.
        allow_missing: Modules that the kernel may lack.
        allow_empty: Whether all modules that are wanted may be builtin or missing.
        modprobe: The guest's /etc/modprobe.d.
        services: The services that come with the package and the vm-config's own.
        cmdline: Words for the command line that the bootloader passes.
        builtin_cmdline: Words for the command line that is built into the kernel.
        cookie: The word that makes the kernel obey the bootloader's command line.
        guest: What is in the initramfs besides agent and modules.
        root: What guests boot into, None for the initramfs.
        machine: What QEMU gives the guest.
        timeouts: How long things may take.
    """

    id: str = given(lambda _written, context: f"{context.file.stem}-{context.version}")
    name: str = given(lambda _written, context: context.file.stem)
    file: Path = given(lambda _written, context: context.file)
    arch: Arch = key(
        Text(doc="The architecture.", allowed=ARCHES.keys()),
        convert=lambda _name, context: context.arch,
    )
    kernel: KernelConfig = key(Record(cls=KernelConfig, doc="How the kernel is made."))
    modules: tuple[str, ...] = key(
        ListOf(doc="Modules wanted in the initramfs by default.", item=_MODULE), default=()
    )
    allow_missing: tuple[str, ...] = key(
        ListOf(doc="Modules that the kernel may lack; all others are errors.", item=_MODULE),
        default=(),
    )
    allow_empty: bool = key(
        Flag(doc="Whether all wanted modules may be builtin or missing."), default=False
    )
    modprobe: ModprobeConfig = section(ModprobeConfig, "The guest's /etc/modprobe.d.")
    services: tuple[Service, ...] = key(
        SERVICES,
        convert=with_shipped,
        default_from=lambda _written, context: with_shipped({}, context),
        default_text="those that come with the package",
    )
    cmdline: str = key(
        Text(
            doc="Words for the command line that the bootloader passes.",
            pattern=r"[^\n\r]*",
            shape="one line",
        ),
        default="",
    )
    builtin_cmdline: str = key(
        Text(
            doc="Words for the kernel's built-in command line.",
            pattern=r"[^\n\r\"\\]*",
            shape="one line without quotes and backslashes",
        ),
        default="",
    )
    cookie: Cookie = key(
        Record(
            cls=Cookie,
            doc="The word that makes the kernel obey the bootloader's command line.",
            bare="text",
        ),
        default=NO_COOKIE,
        default_text="none",
    )
    guest: GuestConfig = section(GuestConfig, "What is in the initramfs besides agent and modules.")
    root: Root | None = key(ROOT, default=None)
    machine: Machine = section(Machine, "What QEMU gives the guest.")
    timeouts: Timeouts = section(
        Timeouts,
        "Seconds until we give up. Those of a guest are its own time, longer on a slow machine.",
    )

    @property
    def command_word(self) -> str:
        """The argument or option that names this cell on a command line of `kernelvm`."""
        if self.file == Path():
            return f"--prebuilt={self.kernel.source.value}"
        return self.id

    def bootloader_cmdline(self, *, words: str = "", cookie: bool = True) -> str:
        """Return the command line that QEMU passes to the kernel.

        Args:
            words: More words, for the end.
            cookie: Whether the cookie is in it.
        """
        parts = (
            self.arch.base_cmdline,
            self.cmdline,
            self.cookie.text if cookie else "",
            words,
        )
        return " ".join(part for part in parts if part)


VM_CONFIG = Record(
    cls=CellConfig, doc="A machine with one or several kernels, each of which makes a cell."
)
