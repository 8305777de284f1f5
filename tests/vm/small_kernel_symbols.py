"""What small kernels of tests have in common."""

# Lines of a vm-config's `symbols:`: what our agent and modules need, whatever the machine is.
LEAST = """\
    PRINTK: y
    TTY: y
    BLK_DEV_INITRD: y
    BINFMT_ELF: y
    PROC_FS: y
    SYSFS: y
    DEVTMPFS: y
    MULTIUSER: y
    FUTEX: y
    MODULES: y
    MODULE_UNLOAD: y
    CC_OPTIMIZE_FOR_SIZE: y
"""
