"""Kernel modules of the tests, in C: one for each thing that can happen to a module."""

# Its init ends as the parameter says, and others may need it.
FAILING = """
#include <linux/module.h>
static int error = -19;
module_param(error, int, 0444);
int failing_symbol(void) { return 1; }
EXPORT_SYMBOL_GPL(failing_symbol);
static int __init start(void) { return error; }
static void __exit end(void) { }
module_init(start);
module_exit(end);
MODULE_LICENSE("GPL");
"""

NEEDING = """
#include <linux/module.h>
int failing_symbol(void);
static int __init start(void) { return !failing_symbol(); }
static void __exit end(void) { }
module_init(start);
module_exit(end);
MODULE_LICENSE("GPL");
"""

# Wants the former too, but can do without.
WANTING = """
#include <linux/module.h>
static int __init start(void) { return 0; }
static void __exit end(void) { }
module_init(start);
module_exit(end);
MODULE_SOFTDEP("pre: failing");
MODULE_LICENSE("GPL");
"""

# /dev/held: while it is open the module is in use.
HELD = """
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
static const struct file_operations operations = { .owner = THIS_MODULE };
static struct miscdevice device = {
	.minor = MISC_DYNAMIC_MINOR, .name = "held", .fops = &operations,
};
module_misc_device(device);
MODULE_LICENSE("GPL");
"""

# No exit function: it can't be unloaded.
STAYING = """
#include <linux/module.h>
static int __init start(void) { return 0; }
module_init(start);
MODULE_LICENSE("GPL");
"""

# A type of filesystem that nothing mounts: register_filesystem() and an alias are all it takes.
FILESYSTEM = """
#include <linux/fs.h>
#include <linux/module.h>
static void no_superblock(struct super_block *sb) { }
static struct file_system_type type = {
	.owner = THIS_MODULE, .name = "plainfs", .kill_sb = no_superblock,
};
static int __init start(void) { return register_filesystem(&type); }
static void __exit end(void) { unregister_filesystem(&type); }
module_init(start);
module_exit(end);
MODULE_ALIAS_FS("plainfs");
MODULE_LICENSE("GPL");
"""


def of_the_kernel(path: str) -> str:
    """Return C that is a file of the kernel's source; it is built as a module of its own."""
    return f'#include "{path}"\n'


# All are in one set, so that each kernel's are built once.
EXTERNAL = {
    "failing": FAILING,
    "needing": NEEDING,
    "wanting": WANTING,
    "held": HELD,
    "staying": STAYING,
    "plainfs": FILESYSTEM,
    "test_kmod": of_the_kernel("lib/test_kmod.c"),
    "test_static_key_base": of_the_kernel("lib/test_static_key_base.c"),
    "test_static_keys": of_the_kernel("lib/test_static_keys.c"),
    "test_bitmap": of_the_kernel("lib/test_bitmap.c"),
    "test_printf": of_the_kernel("lib/test_printf.c"),
    "test_xarray": of_the_kernel("lib/test_xarray.c"),
    "test_ida": of_the_kernel("lib/test_ida.c"),
}
