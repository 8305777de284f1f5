"""Facts of each architecture that nobody can choose, one row an architecture."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from pytest_kernelvm.errors import BadInput, Evidence


def struct_order(byteorder: Literal["big", "little"]) -> str:
    """Return the sign that stands for a byte order in the formats of the module `struct`."""
    return ">" if byteorder == "big" else "<"


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedInitramfs:
    """Where the initramfs lies when the kernel must not read its address from the bootloader.

    address: physical address, in bytes from 0.
    size_bytes: the room reserved; zero bytes behind the archive are skipped by the kernel
        (init/initramfs.c, unpack_to_rootfs).
    cmdline: the words of the built-in command line that tell the kernel.
    """

    address: int
    size_bytes: int
    cmdline: str

    def announced(self, line: str) -> str:
        """Return the words of a command line that say where an initramfs lies, but for these."""
        words = (word for word in line.split() if word.startswith(("rd_start=", "rd_size=")))
        return " ".join(word for word in words if word not in self.cmdline.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstStage:
    """A bootloader of ours that enters the kernel with registers of our choice.

    source: its file in guest/c/. address: physical, where it lies. virtual: what the kernel's
    addresses have besides.
    """

    source: str
    address: int
    virtual: int


@dataclass(frozen=True, kw_only=True, slots=True)
class UBoot:
    """How U-Boot is built for the machine, and what it takes for granted there.

    defconfig: of its configs/. image: what QEMU takes as firmware. memory_mib: the machine's.
    script: physical, where it finds its commands; from there on it leaves memory alone up to end,
        behind which it moves itself. virtual: what its addresses have besides.
    """

    defconfig: str
    image: str
    memory_mib: int
    script: int
    end: int
    virtual: int


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Arch:
    """One architecture on one QEMU machine.

    name: ours, as in vm-configs and `--kernelvm-arch`.
    linux_arch: the kernel's ARCH=.
    qemu_arch: the suffix of qemu-system-.
    uname: what uname(2) says in `machine`.
    endianness, elf_class (bits), elf_machine (e_machine): what its ELF files say.
    toolchain_prefix: the default CROSS_COMPILE.
    debian_packages: what Debian calls the compiler and QEMU.
    debian_arch: Debian's name of it, empty where Debian 12 has no such port.
    debian_libc: its packages of a C library and its headers for the cross compiler.
    machine: QEMU's -M; cpu: the default -cpu.
    image: the default make target and, below the build directory, the file it makes.
    images: every image target and its file.
    console: the kernel's console device; channel: the agent's device, a second serial port.
    channel_argv: the QEMU flags that attach the chardev `channel`; console_argv likewise.
    channel_symbols: what must be built in for the channel to be there when the agent starts.
    image_magic: what is in bytes 56 to 59 of an image that is no ELF file.
    network_argv: the QEMU flags that attach the netdev `net0`; network_modules: its driver's.
    fast_boot_argv: QEMU flags that shorten the boot and change nothing a test can see.
    spin: machine code at the reset vector that counts in a register forever; spin_register: how
        QEMU's monitor shows that; spins_per_s: of the machine that suits default timeouts.
    agent_cflags: what makes a static nolibc program small here.
    nolibc_cflags: what makes nolibc's system calls right here.
    compact_cflags: a denser instruction set that has no system calls, on the CPUs of compact_cpus
        (models of QEMU's -cpu) only.
    max_memory_mib: the most that the machine has in one piece.
    builtin_cmdline_symbols: bool symbols that make CONFIG_CMDLINE count without a bootloader's.
    cookie_patch, cookie_require_symbol, cookie_symbol: how the kernel learns the cmdline cookie;
        cookie_word_symbol: that it must be a word of its own.
    cmdline_bytes: the longest command line that reaches the kernel, without a zero byte.
    fixed_initramfs: set where the initramfs' address travels on the command line.
    kexec_symbol: what lets a kernel load another one by the system call that suits it.
    first_stage: set where a command line or tree reaches a kernel in its registers.
    uboot: set where U-Boot can be firmware in front of such a kernel.
    memory_address: where memory begins, physical. initramfs_above: how far above that QEMU's
        bootloader puts the initramfs at most, 0 for memory's end.
    reads_uncached: whether memory that ioremap() maps may be read at any address; phram without a
        device tree's node maps it so.
    """

    name: str
    linux_arch: str
    qemu_arch: str
    uname: str
    endianness: Literal["big", "little"]
    elf_class: Literal[32, 64]
    elf_machine: int
    toolchain_prefix: str
    debian_packages: tuple[str, ...]
    debian_arch: str
    debian_libc: tuple[str, ...]
    machine: str
    cpu: str
    images: dict[str, str]
    console: str
    channel: str
    console_argv: tuple[str, ...]
    channel_argv: tuple[str, ...]
    network_argv: tuple[str, ...]
    network_modules: tuple[str, ...]
    fast_boot_argv: tuple[str, ...]
    spin: bytes
    spin_register: str
    spins_per_s: float
    agent_cflags: tuple[str, ...]
    nolibc_cflags: tuple[str, ...]
    compact_cflags: tuple[str, ...]
    compact_cpus: tuple[str, ...]
    max_memory_mib: int
    builtin_cmdline_symbols: tuple[str, ...]
    cookie_patch: str
    cookie_require_symbol: str
    cookie_symbol: str
    cookie_word_symbol: str
    channel_symbols: tuple[str, ...]
    cmdline_bytes: int
    kexec_symbol: str
    image_magic: bytes = b""
    fixed_initramfs: FixedInitramfs | None = None
    first_stage: FirstStage | None = None
    uboot: UBoot | None = None
    memory_address: int = 0
    initramfs_above: int = 0
    reads_uncached: bool = True

    @property
    def qemu_binary(self) -> str:
        """The QEMU program's name."""
        return f"qemu-system-{self.qemu_arch}"

    @property
    def base_cmdline(self) -> str:
        """The words that every boot needs: the console, an end after a panic, an unlimited kmsg."""
        return f"console={self.console} panic=-1 printk.devkmsg=on"

    @property
    def builtin_cmdline(self) -> str:
        """The base words for CONFIG_CMDLINE, with the initramfs' fixed address where needed."""
        fixed = f"{self.fixed_initramfs.cmdline} " if self.fixed_initramfs else ""
        return f"{fixed}{self.base_cmdline}"

    @property
    def default_image(self) -> str:
        """The image target that QEMU boots."""
        return next(iter(self.images))


# Malta: two 16550s on the ISA bus are -serial 0 and 1 (hw/mips/malta.c). A boot spends its time
# in estimate_frequencies() (arch/mips/mti-malta/malta-time.c) waiting for RTC ticks; a clock that
# counts instructions makes them come at once. `sleep=off` would starve an idle QEMU's main loop.
_MALTA_FAST_BOOT = ("-icount", "shift=7", "-rtc", "clock=vm")
# addiu a0, a0, 1; b .-4; nop. QEMU swaps the words of -bios for a little-endian CPU (malta.c).
_MALTA_SPIN = bytes.fromhex("24840001 1000fffe 00000000")
_MALTA_SERIAL = ("-serial", "chardev:console")
_MALTA_CHANNEL = ("-serial", "chardev:channel")
_MALTA_AGENT_CFLAGS = (
    *("-mno-abicalls", "-fno-pic", "-G0", "-msoft-float", "-mips32r2"),
    "-Wl,-z,common-page-size=64",
)
# my_syscall5 and 6 (tools/include/nolibc/arch-mips.h) move the stack's pointer before they store an
# argument; one that is that very register, the address of a leaf function's first variable, would
# be wrong. With a frame pointer it is another register.
_MALTA_NOLIBC_CFLAGS = ("-fno-omit-frame-pointer",)

# MIPS16e, and who has it (target/mips/cpu-defs.c.inc, ASE_MIPS16).
_MALTA_COMPACT_CFLAGS = ("-mips16", "-minterlink-mips16")
_MALTA_COMPACT_CPUS = ("24Kc", "24KEc", "24Kf", "34Kf", "74Kf")

# The initramfs goes to 96 MiB, below the 128 MiB that a Malta has at least.
_MALTA_INITRAMFS = FixedInitramfs(
    address=0x0600_0000,
    size_bytes=0x0020_0000,
    cmdline="rd_start=0xffffffff86000000 rd_size=0x200000",
)

# Where the processor sees memory as it is, and caches it.
_MALTA_KSEG0 = 0x8000_0000

# Below the initramfs, with room for a command line or a tree.
_MALTA_FIRST_STAGE = FirstStage(
    source="mips_first_stage.S", address=0x05F0_0000, virtual=_MALTA_KSEG0
)


def _malta_uboot(board: str, image: str) -> UBoot:
    """The size of its memory is a constant of include/configs/malta.h; below 4 MiB is its stack."""
    return UBoot(
        defconfig=f"{board}_defconfig",
        image=image,
        memory_mib=256,
        script=0x0080_0000,
        end=0x0F00_0000,
        virtual=_MALTA_KSEG0,
    )


def _malta(
    *,
    name: str,
    endianness: Literal["big", "little"],
    prefix: str,
    packages: tuple[str, ...],
    debian_arch: str,
    uboot: UBoot,
) -> Arch:
    return Arch(
        name=name,
        linux_arch="mips",
        qemu_arch=name,
        uname="mips",
        endianness=endianness,
        elf_class=32,
        elf_machine=8,
        toolchain_prefix=prefix,
        debian_packages=packages,
        debian_arch=debian_arch,
        debian_libc=(f"libc6-dev-{name}-cross", f"linux-libc-dev-{name}-cross"),
        machine="malta",
        cpu="24Kf",
        images={
            "vmlinux": "vmlinux",
            "vmlinuz": "vmlinuz",
            "vmlinux.bin": "arch/mips/boot/vmlinux.bin",
            "uImage": "arch/mips/boot/uImage",
        },
        console="ttyS0",
        channel="ttyS1",
        console_argv=_MALTA_SERIAL,
        channel_argv=_MALTA_CHANNEL,
        # Without its option ROM, which Debian has in another package.
        network_argv=("-device", "virtio-net-pci,netdev=net0,romfile="),
        network_modules=("virtio_pci", "virtio_net"),
        fast_boot_argv=_MALTA_FAST_BOOT,
        spin=_MALTA_SPIN,
        spin_register=r"\ba0 ([0-9a-f]{8})\b",
        spins_per_s=240e6,
        agent_cflags=_MALTA_AGENT_CFLAGS,
        nolibc_cflags=_MALTA_NOLIBC_CFLAGS,
        compact_cflags=_MALTA_COMPACT_CFLAGS,
        compact_cpus=_MALTA_COMPACT_CPUS,
        max_memory_mib=256,
        builtin_cmdline_symbols=("CMDLINE_BOOL", "MIPS_CMDLINE_FROM_BOOTLOADER"),
        cookie_patch="mips-cmdline-cookie",
        cookie_require_symbol="MIPS_BOOTLOADER_CMDLINE_REQUIRE_COOKIE",
        cookie_symbol="MIPS_BOOTLOADER_CMDLINE_COOKIE",
        cookie_word_symbol="MIPS_BOOTLOADER_CMDLINE_COOKIE_WORD",
        channel_symbols=("SERIAL_8250",),
        # QEMU's bootloader has entries of 256 bytes for it (malta.c, ENVP_ENTRY_SIZE).
        cmdline_bytes=255,
        kexec_symbol="KEXEC",
        fixed_initramfs=_MALTA_INITRAMFS,
        first_stage=_MALTA_FIRST_STAGE,
        uboot=uboot,
    )


ARCHES: dict[str, Arch] = {
    arch.name: arch
    for arch in (
        _malta(
            name="mips",
            endianness="big",
            prefix="mips-linux-gnu-",
            packages=("gcc-mips-linux-gnu", "qemu-system-mips"),
            debian_arch="",
            uboot=_malta_uboot("malta", "u-boot.bin"),
        ),
        _malta(
            name="mipsel",
            endianness="little",
            prefix="mipsel-linux-gnu-",
            packages=("gcc-mipsel-linux-gnu", "qemu-system-mips"),
            debian_arch="mipsel",
            # With its words swapped, which QEMU swaps back (hw/mips/malta.c).
            uboot=_malta_uboot("maltael", "u-boot-swap.bin"),
        ),
        Arch(
            name="aarch64",
            linux_arch="arm64",
            qemu_arch="aarch64",
            uname="aarch64",
            endianness="little",
            elf_class=64,
            elf_machine=183,
            toolchain_prefix="aarch64-linux-gnu-",
            debian_packages=("gcc-aarch64-linux-gnu", "qemu-system-arm"),
            debian_arch="arm64",
            debian_libc=("libc6-dev-arm64-cross", "linux-libc-dev-arm64-cross"),
            machine="virt",
            cpu="cortex-a57",
            images={"Image": "arch/arm64/boot/Image", "Image.gz": "arch/arm64/boot/Image.gz"},
            console="ttyAMA0",
            channel="vport0p1",
            console_argv=("-serial", "chardev:console"),
            channel_argv=(
                "-device",
                "virtio-serial-device",
                "-device",
                "virtserialport,chardev=channel",
            ),
            network_argv=("-device", "virtio-net-device,netdev=net0"),
            network_modules=("virtio_net",),
            fast_boot_argv=(),
            # add x0, x0, #1; b .-4
            spin=bytes.fromhex("00040091 ffffff17"),
            spin_register=r"\bX00=([0-9a-f]{16})\b",
            spins_per_s=3.8e9,
            agent_cflags=(
                "-mno-outline-atomics",
                "-fno-pic",
                "-no-pie",
                "-Wl,-z,max-page-size=4096,-z,common-page-size=64",
            ),
            nolibc_cflags=(),
            compact_cflags=(),
            compact_cpus=(),
            max_memory_mib=4096,
            builtin_cmdline_symbols=("CMDLINE_FROM_BOOTLOADER",),
            cookie_patch="of-cmdline-cookie",
            cookie_require_symbol="OF_BOOTARGS_REQUIRE_COOKIE",
            cookie_symbol="OF_BOOTARGS_COOKIE",
            cookie_word_symbol="OF_BOOTARGS_COOKIE_WORD",
            channel_symbols=("VIRTIO_MMIO", "VIRTIO_CONSOLE"),
            # COMMAND_LINE_SIZE (arch/arm64/include/uapi/asm/setup.h).
            cmdline_bytes=2047,
            kexec_symbol="KEXEC_FILE",
            # Documentation/arch/arm64/booting.rst, `magic number`.
            image_magic=b"ARM\x64",
            # hw/arm/virt.c; hw/arm/boot.c puts the initramfs 128 MiB up, or half way.
            memory_address=0x4000_0000,
            initramfs_above=0x0800_0000,
            # Device memory: unaligned accesses fault (QEMU 7.2 lets them pass).
            reads_uncached=False,
        ),
    )
}


def arch_named(name: str) -> Arch:
    """Return the row of one architecture.

    name: `mips`, `mipsel` or `aarch64`.
    Raises BadInput, with near matches, for another name.
    """
    try:
        return ARCHES[name]
    except KeyError:
        near = difflib.get_close_matches(name, ARCHES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else ""
        raise BadInput(
            f"unknown arch {name!r}",
            Evidence(expected=f"one of {', '.join(ARCHES)}", next_step=hint),
        ) from None
