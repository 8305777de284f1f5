"""ARM on QEMU's virt machine."""

from __future__ import annotations

from pytest_kernelvm.arch.base import (
    Arch,
    CookieSupport,
    FactsForTests,
    ImageMagic,
    Packages,
    SpinLoop,
)

ROWS = (
    Arch(
        name="aarch64",
        linux_arch="arm64",
        qemu_arch="aarch64",
        uname="aarch64",
        endianness="little",
        elf_class=64,
        elf_machine=183,
        toolchain_prefix="aarch64-linux-gnu-",
        compiler_packages=Packages(
            apt="gcc-aarch64-linux-gnu",
            dnf="gcc-aarch64-linux-gnu",
            pacman="aarch64-linux-gnu-gcc",
            nix="pkgsCross.aarch64-multiplatform.buildPackages.gcc",
        ),
        qemu_packages=Packages(
            apt="qemu-system-arm",
            dnf="qemu-system-aarch64-core",
            pacman="qemu-system-aarch64",
            nix="qemu",
            brew="qemu",
        ),
        debian_arch="arm64",
        debian_libc=("libc6-dev-arm64-cross", "linux-libc-dev-arm64-cross"),
        machine="virt",
        cpu="cortex-a57",
        images={"Image": "arch/arm64/boot/Image", "Image.gz": "arch/arm64/boot/Image.gz"},
        # Documentation/arch/arm64/booting.rst, `magic number`.
        image_magic=ImageMagic(offset=56, content=b"ARM\x64"),
        console="ttyAMA0",
        channel="vport0p1",
        channel_argv=(
            *("-device", "virtio-serial-device"),
            *("-device", "virtserialport,chardev=channel"),
        ),
        channel_symbols=("VIRTIO_MMIO", "VIRTIO_CONSOLE"),
        network_argv=("-device", "virtio-net-device,netdev=net0"),
        network_modules=("virtio_net",),
        pc_register=r"\bPC=([0-9a-f]{16})\b",
        max_memory_mib=4096,
        # hw/arm/virt.c. hw/arm/boot.c puts the initramfs 128 MiB above, or in the middle of less.
        memory_address=0x4000_0000,
        initramfs_above=0x0800_0000,
        # ioremap() gives device memory, where unaligned accesses fault (not in QEMU 7.2).
        reads_uncached=False,
        spin=SpinLoop(
            # add x0, x0, #1; b .-4
            code=bytes.fromhex("00040091 ffffff17"),
            register=r"\bX00=([0-9a-f]{16})\b",
            spins_per_s=3.8e9,
        ),
        agent_cflags=(
            "-mno-outline-atomics",
            "-fno-pic",
            "-no-pie",
            "-Wl,-z,max-page-size=4096,-z,common-page-size=64",
        ),
        builtin_cmdline_symbols=("CMDLINE_FROM_BOOTLOADER",),
        # COMMAND_LINE_SIZE (arch/arm64/include/uapi/asm/setup.h).
        cmdline_bytes=2047,
        cookie=CookieSupport(
            patch="of-cmdline-cookie",
            require_symbol="OF_BOOTARGS_REQUIRE_COOKIE",
            symbol="OF_BOOTARGS_COOKIE",
            word_symbol="OF_BOOTARGS_COOKIE_WORD",
        ),
        kexec_symbol="KEXEC_FILE",
        for_tests=FactsForTests(
            compressed_image="Image.gz",
            # 32 bits.
            incompatible_cpu="cortex-a15",
            too_little_memory_mib=16,
            earlycon="earlycon=pl011,0x9000000",
            modprobe_most_bytes=16 * 1024,
            preinit_most_bytes=5120,
        ),
    ),
)
