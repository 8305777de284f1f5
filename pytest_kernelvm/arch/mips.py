"""MIPS on QEMU's Malta, in both byte orders."""

from __future__ import annotations

from dataclasses import replace

from pytest_kernelvm.arch.base import (
    Arch,
    CookieSupport,
    FactsForTests,
    FirstStage,
    FixedInitramfs,
    Packages,
    SpinLoop,
    UBoot,
)

# Begin of the addresses that the processor maps to memory one to one, with caches.
_KSEG0 = 0x8000_0000
_QEMU = Packages(
    apt="qemu-system-mips",
    dnf="qemu-system-mips-core",
    pacman="qemu-system-mips",
    nix="qemu",
    brew="qemu",
)
_UBOOT = UBoot(
    defconfig="malta_defconfig",
    # It passes trees as UHI says.
    symbols={"MIPS_BOOT_FDT": "y"},
    image="u-boot.bin",
    # A constant of include/configs/malta.h.
    memory_mib=256,
    # Its stack is below 4 MiB.
    script=0x0080_0000,
    end=0x0F00_0000,
    virtual=_KSEG0,
)

_BIG = Arch(
    name="mips",
    linux_arch="mips",
    qemu_arch="mips",
    uname="mips",
    endianness="big",
    elf_class=32,
    elf_machine=8,
    toolchain_prefix="mips-linux-gnu-",
    compiler_packages=Packages(
        apt="gcc-mips-linux-gnu", nix="pkgsCross.mips-linux-gnu.buildPackages.gcc"
    ),
    qemu_packages=_QEMU,
    debian_libc=("libc6-dev-mips-cross", "linux-libc-dev-mips-cross"),
    machine="malta",
    cpu="24Kf",
    images={
        "vmlinux": "vmlinux",
        "vmlinuz": "vmlinuz",
        "vmlinux.bin": "arch/mips/boot/vmlinux.bin",
        "uImage": "arch/mips/boot/uImage",
    },
    # Two 16550s on the ISA bus are -serial 0 and 1 (hw/mips/malta.c).
    console="ttyS0",
    channel="ttyS1",
    channel_argv=("-serial", "chardev:channel"),
    channel_symbols=("SERIAL_8250",),
    pc_register=r"\bpc=0x([0-9a-f]+)",
    max_memory_mib=256,
    # Most of a boot is spent in estimate_frequencies() (arch/mips/mti-malta/malta-time.c), which
    # waits for ticks of the RTC. With a clock that counts instructions they come at once.
    # `sleep=off` would starve the main loop of a QEMU whose guest is idle.
    fast_boot_argv=("-icount", "shift=7", "-rtc", "clock=vm"),
    spin=SpinLoop(
        # addiu a0, a0, 1; b .-4; nop. QEMU swaps the words of -bios for a little-endian CPU
        # (hw/mips/malta.c).
        code=bytes.fromhex("24840001 1000fffe 00000000"),
        register=r"\ba0 ([0-9a-f]{8})\b",
        spins_per_s=240e6,
    ),
    agent_cflags=(
        *("-mno-abicalls", "-fno-pic", "-G0", "-msoft-float", "-mips32r2"),
        "-Wl,-z,common-page-size=64",
    ),
    # my_syscall5() and my_syscall6() (tools/include/nolibc/arch-mips.h) move the stack pointer
    # before they store an argument. An argument that the compiler has in the stack pointer itself,
    # such as the address of a leaf function's first variable, would be wrong. With a frame pointer
    # it is in another register.
    nolibc_cflags=("-fno-omit-frame-pointer",),
    # MIPS16e, and the models that have it (QEMU's target/mips/cpu-defs.c.inc, ASE_MIPS16).
    compact_cflags=("-mips16", "-minterlink-mips16"),
    compact_cpus=("24Kc", "24KEc", "24Kf", "34Kf", "74Kf"),
    builtin_cmdline_symbols=("CMDLINE_BOOL", "MIPS_CMDLINE_FROM_BOOTLOADER"),
    # QEMU's bootloader has entries of 256 bytes for it (hw/mips/malta.c, ENVP_ENTRY_SIZE).
    cmdline_bytes=255,
    cookie=CookieSupport(
        patch="mips-cmdline-cookie",
        require_symbol="MIPS_BOOTLOADER_CMDLINE_REQUIRE_COOKIE",
        symbol="MIPS_BOOTLOADER_CMDLINE_COOKIE",
        word_symbol="MIPS_BOOTLOADER_CMDLINE_COOKIE_WORD",
    ),
    # 96 MiB, below the 128 MiB that a Malta has at least.
    fixed_initramfs=FixedInitramfs(
        address=0x0600_0000,
        size_bytes=0x0020_0000,
        cmdline="rd_start=0xffffffff86000000 rd_size=0x200000",
    ),
    kexec_symbol="KEXEC",
    first_stage=FirstStage(
        source="mips_first_stage.S",
        # Below the initramfs, with room for a command line or a tree.
        address=0x05F0_0000,
        virtual=_KSEG0,
        # COMMAND_LINE_SIZE (arch/mips/include/asm/setup.h).
        cmdline_bytes=4095,
        tree_patch="malta-device-tree",
        kexec_tree_patch="mips-kexec-tree",
        tree_cmdline_symbol="MIPS_CMDLINE_FROM_DTB",
        loader_cmdline_symbol="MIPS_CMDLINE_FROM_BOOTLOADER",
    ),
    uboot=_UBOOT,
    # arch/mips/include/asm/socket.h, arch/mips/include/uapi/asm/signal.h
    sock_stream=2,
    sock_dgram=1,
    sigusr1=16,
    for_tests=FactsForTests(
        compressed_image="vmlinuz",
        # Release 1 of MIPS32; the kernels are for release 2.
        incompatible_cpu="4Kc",
        cpu_without_compact_code="4KEc",
        too_little_memory_mib=7,
        earlycon="",
        compatible="mti,malta",
        modprobe_most_bytes=10 * 1024,
        preinit_most_bytes=4096,
    ),
)

ROWS = (
    _BIG,
    replace(
        _BIG,
        name="mipsel",
        qemu_arch="mipsel",
        endianness="little",
        toolchain_prefix="mipsel-linux-gnu-",
        compiler_packages=Packages(
            apt="gcc-mipsel-linux-gnu", nix="pkgsCross.mipsel-linux-gnu.buildPackages.gcc"
        ),
        debian_arch="mipsel",
        debian_libc=("libc6-dev-mipsel-cross", "linux-libc-dev-mipsel-cross"),
        # With its words swapped, which QEMU swaps back (hw/mips/malta.c).
        uboot=replace(_UBOOT, defconfig="maltael_defconfig", image="u-boot-swap.bin"),
    ),
)
