"""What a row says of an architecture: the facts that nobody can choose.

The fields without a default are what every machine has. The others default to what most machines
lack, so that a row is short. The rows are in the other files of this package, one file for each
family of architectures; `registry.py` finds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


def struct_order(byteorder: Literal["big", "little"]) -> str:
    """Return the character that stands for a byte order in the formats of the module `struct`.

    Args:
        byteorder: As sys.byteorder and int.from_bytes have it.
    """
    return ">" if byteorder == "big" else "<"


@dataclass(frozen=True, kw_only=True, slots=True)
class Packages:
    """The package that has a program, in each package system; empty where there is none.

    Attributes:
        apt: Debian's name.
        dnf: Fedora's name.
        pacman: Arch Linux's name.
        nix: The attribute in nixpkgs.
        brew: Homebrew's name.
    """

    apt: str
    dnf: str = ""
    pacman: str = ""
    nix: str = ""
    brew: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImageMagic:
    """The bytes by which an image that is no ELF file is recognised.

    Attributes:
        offset: Where they are, in bytes from the beginning of the file.
        content: The bytes.
    """

    offset: int
    content: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class SpinLoop:
    """A program that counts in a register forever; it measures how fast QEMU runs here.

    Attributes:
        code: Machine code; QEMU's -bios puts it where the processor starts.
        register: A pattern for QEMU's `info registers`; its group is the counter, hexadecimal.
        spins_per_s: Rounds a second of the host for which the default timeouts were chosen.
    """

    code: bytes
    register: str
    spins_per_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class CookieSupport:
    """How a kernel gets the word without which it ignores the bootloader's command line.

    Attributes:
        patch: Its patch in kernel/patches/, without .patch.
        require_symbol: A bool symbol: the cookie is required.
        symbol: The text symbol that holds the cookie.
        word_symbol: A bool symbol: the cookie must be a word of its own.
    """

    patch: str
    require_symbol: str
    symbol: str
    word_symbol: str


@dataclass(frozen=True, kw_only=True, slots=True)
class FixedInitramfs:
    """Where the initramfs is when the kernel must not read its address from the bootloader.

    Attributes:
        address: Physical address.
        size_bytes: The size that is reserved; the kernel skips zero bytes behind the archive
            (init/initramfs.c, unpack_to_rootfs).
        cmdline: The words of the built-in command line that pass address and size.
    """

    address: int
    size_bytes: int
    cmdline: str

    def announced(self, line: str) -> str:
        """Return the words of a command line that announce an initramfs at another place.

        Args:
            line: The whole command line of a guest.
        """
        words = (word for word in line.split() if word.startswith(("rd_start=", "rd_size=")))
        return " ".join(word for word in words if word not in self.cmdline.split())


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstStage:
    """A bootloader of ours that enters the kernel with registers of our choice.

    Attributes:
        source: Its file in guest/c/.
        address: Physical address where it is put.
        virtual: What is added to a physical address to get the kernel's address of it.
        cmdline_bytes: The longest command line that it can pass, without a zero byte.
        tree_patch: The patch in kernel/patches/ with which a kernel takes a passed device tree.
        kexec_tree_patch: The patch there with which a kernel passes a tree on by kexec.
        tree_cmdline_symbol: The symbol with which the tree's bootargs are the command line.
        loader_cmdline_symbol: The symbol, of the same choice, with which the bootloader's are.
    """

    source: str
    address: int
    virtual: int
    cmdline_bytes: int
    tree_patch: str
    kexec_tree_patch: str
    tree_cmdline_symbol: str
    loader_cmdline_symbol: str


@dataclass(frozen=True, kw_only=True, slots=True)
class UBoot:
    """How U-Boot is built for the machine, and what it takes for granted there.

    Attributes:
        defconfig: The file in U-Boot's configs/.
        symbols: What is set in addition, by symbol without CONFIG_.
        image: The file of its build that QEMU takes as firmware.
        memory_mib: The memory that the machine must have.
        script: Physical address where it finds its commands. It does not use memory from there
            up to `end`.
        end: Physical address behind which it moves itself.
        virtual: What is added to a physical address to get U-Boot's address of it.
    """

    defconfig: str
    symbols: Mapping[str, str]
    image: str
    memory_mib: int
    script: int
    end: int
    virtual: int


@dataclass(frozen=True, kw_only=True, slots=True)
class FactsForTests:
    """What only the project's own tests take for granted; a test skips where its value is missing.

    Attributes:
        compressed_image: An image target that QEMU boots and that unpacks itself or is unpacked.
        incompatible_cpu: A model for QEMU's -cpu that cannot run kernels for the default one.
        cpu_without_compact_code: A model that runs them, but not code of `compact_cflags`.
        too_little_memory_mib: Memory in which a kernel of vm-configs/ starts and panics.
        earlycon: The words that give the kernel an early console; empty where it has one in any
            case, None where nothing is known.
        compatible: The first `compatible` of the device tree that kernels have built in.
        modprobe_most_bytes: The largest size of our modprobe that is accepted.
        preinit_most_bytes: The largest size of our preinit that is accepted.
    """

    compressed_image: str = ""
    incompatible_cpu: str = ""
    cpu_without_compact_code: str = ""
    too_little_memory_mib: int = 0
    earlycon: str | None = None
    compatible: str = ""
    modprobe_most_bytes: int = 0
    preinit_most_bytes: int = 0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Arch:
    """One architecture on one QEMU machine.

    Attributes:
        name: Our name, as in vm-configs and `--kernelvm-arch`.
        linux_arch: The kernel's ARCH=.
        qemu_arch: The suffix of qemu-system-.
        uname: What uname(2) says in `machine`.
        endianness: The byte order of its ELF files.
        elf_class: The bits of an address in its ELF files.
        elf_machine: The e_machine of its ELF files (include/uapi/linux/elf-em.h).
        toolchain_prefix: The default CROSS_COMPILE.
        compiler_packages: The packages with the cross compiler.
        qemu_packages: The packages with QEMU.
        machine: QEMU's -M.
        cpu: The default of QEMU's -cpu.
        images: The file below the build directory that each image target of make writes; the
            first target is what QEMU boots by default.
        console: The kernel's console device.
        pc_register: A pattern for QEMU's `info registers`; its group is the program counter,
            hexadecimal.
        max_memory_mib: The most memory that the machine has in one piece.
        cmdline_bytes: The longest command line that reaches the kernel, without a zero byte.
        debian_arch: Debian's name of the architecture; empty where Debian 12 has no such port.
        debian_libc: Debian's packages of a C library and its headers for the cross compiler.
        console_argv: QEMU's flags that attach the chardev `console`.
        channel: The agent's device; empty where the machine has no second port, so that the
            agent shares the console.
        channel_argv: QEMU's flags that attach the chardev `channel`.
        channel_symbols: What must be built in for the channel to be there when the agent starts.
        network_argv: QEMU's flags that attach the netdev `net0`.
        network_modules: The modules of that card's driver.
        fast_boot_argv: QEMU's flags that shorten the boot and change nothing a test can see.
        spin: What measures the speed of guests; without it the default timeouts hold as they are.
        image_magic: How images are recognised that are no ELF files.
        agent_cflags: The compiler's flags that make a static nolibc program small.
        nolibc_cflags: The compiler's flags that make nolibc's system calls right.
        compact_cflags: The compiler's flags for a denser instruction set that has no system calls.
        compact_cpus: The models for QEMU's -cpu that execute it.
        builtin_cmdline_symbols: Bool symbols that make CONFIG_CMDLINE count where the bootloader
            says nothing.
        cookie: How a kernel gets the cookie; None where no patch of ours supports it.
        fixed_initramfs: Set where the initramfs' address travels on the command line.
        kexec_symbol: The symbol of the system call that loads another kernel; empty where we know
            no way to do that.
        first_stage: Set where a command line or tree reaches a kernel in its registers.
        uboot: Set where U-Boot can be firmware in front of such a kernel.
        memory_address: Physical address where memory begins.
        initramfs_above: How far above that, in bytes, QEMU's bootloader puts the initramfs at
            most; 0 for memory's end.
        reads_uncached: Whether memory that ioremap() maps may be read at any address; phram
            without a device tree's node maps it so.
        sock_stream: SOCK_STREAM of socket(2).
        sock_dgram: SOCK_DGRAM of socket(2).
        sigusr1: SIGUSR1 of signal(7).
        for_tests: What the project's own tests take for granted.
    """

    name: str
    linux_arch: str
    qemu_arch: str
    uname: str
    endianness: Literal["big", "little"]
    elf_class: Literal[32, 64]
    elf_machine: int
    toolchain_prefix: str
    compiler_packages: Packages
    qemu_packages: Packages
    machine: str
    cpu: str
    images: Mapping[str, str]
    console: str
    pc_register: str
    max_memory_mib: int
    cmdline_bytes: int
    debian_arch: str = ""
    debian_libc: tuple[str, ...] = ()
    console_argv: tuple[str, ...] = ("-serial", "chardev:console")
    channel: str = ""
    channel_argv: tuple[str, ...] = ()
    channel_symbols: tuple[str, ...] = ()
    # Without its option ROM, which Debian has in another package.
    network_argv: tuple[str, ...] = ("-device", "virtio-net-pci,netdev=net0,romfile=")
    network_modules: tuple[str, ...] = ("virtio_pci", "virtio_net")
    fast_boot_argv: tuple[str, ...] = ()
    spin: SpinLoop | None = None
    image_magic: ImageMagic | None = None
    agent_cflags: tuple[str, ...] = ()
    nolibc_cflags: tuple[str, ...] = ()
    compact_cflags: tuple[str, ...] = ()
    compact_cpus: tuple[str, ...] = ()
    builtin_cmdline_symbols: tuple[str, ...] = ()
    cookie: CookieSupport | None = None
    fixed_initramfs: FixedInitramfs | None = None
    kexec_symbol: str = ""
    first_stage: FirstStage | None = None
    uboot: UBoot | None = None
    memory_address: int = 0
    initramfs_above: int = 0
    reads_uncached: bool = True
    sock_stream: int = 1
    sock_dgram: int = 2
    sigusr1: int = 10
    for_tests: FactsForTests = field(default_factory=FactsForTests)

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
        """The image target that QEMU boots by default."""
        return next(iter(self.images))
