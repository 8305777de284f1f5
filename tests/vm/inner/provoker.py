"""A guest whose kernel goes wrong on demand, for tests that a pytest of their own runs."""

from __future__ import annotations

import time

from pytest_kernelvm import BootVm, Cell, Vm

# So long the host waits for what the kernel does later, on a machine that may be busy.
LATER_S = 0.3

# What is written to /proc/provoke is done at once, or 30 ms later.
PROVOKER = r"""
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>
#include <linux/reboot.h>
#include <linux/kobject.h>
#include <linux/delay.h>

static char later[32];
static void act(const char *what);
static void now(struct work_struct *work) { act(later); }
static DECLARE_DELAYED_WORK(work, now);

static void act(const char *what)
{
	int n;

	if (!strncmp(what, "later ", 6)) {
		strscpy(later, what + 6, sizeof(later));
		schedule_delayed_work(&work, msecs_to_jiffies(30));
	} else if (!strcmp(what, "warn")) {
		WARN(1, "provoked\n");
	} else if (!strcmp(what, "warntaint")) {
		WARN_TAINT(1, TAINT_FIRMWARE_WORKAROUND, "provoked\n");
	} else if (!strcmp(what, "bug")) {
		pr_crit("BUG: provoked\n");
	} else if (!strcmp(what, "unfinished")) {
		printk(KERN_CRIT "BUG: provoked");
	} else if (!strcmp(what, "dump")) {
		dump_stack();
	} else if (!strcmp(what, "sysfs")) {
		struct kobject *a = kobject_create_and_add("mine", kernel_kobj);
		struct kobject *b = kobject_create_and_add("mine", kernel_kobj);
		if (b)
			kobject_put(b);
		kobject_put(a);
	} else if (!strncmp(what, "taint ", 6)) {
		if (!kstrtoint(what + 6, 0, &n))
			add_taint(n, LOCKDEP_STILL_OK);
	} else if (!strcmp(what, "panic")) {
		panic("provoked");
	} else if (!strcmp(what, "spin")) {
		local_irq_disable();
		for (;;)
			barrier();
	} else if (!strcmp(what, "off")) {
		kernel_power_off();
	} else if (!strcmp(what, "restart")) {
		kernel_restart(NULL);
	} else if (!strcmp(what, "oops")) {
		*(volatile int *)8 = 1;
	} else if (!strcmp(what, "flood")) {
		for (n = 0; n < 12000; n++)
			printk(KERN_DEBUG "line %d of very many lines that nobody has to read\n", n);
	} else if (!strncmp(what, "say ", 4)) {
		printk(KERN_ERR "%s\n", what + 4);
	} else if (!strncmp(what, "info ", 5)) {
		printk(KERN_INFO "%s\n", what + 5);
	}
}

static ssize_t provoke_write(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	static char what[256];
	size_t length = min(size, sizeof(what) - 1);

	if (copy_from_user(what, from, length))
		return -EFAULT;
	what[length] = 0;
	act(what);
	return size;
}

static const struct proc_ops ops = { .proc_write = provoke_write };
static int __init start(void) { return proc_create("provoke", 0600, NULL, &ops) ? 0 : -ENOMEM; }
static void __exit end(void)
{
	cancel_delayed_work_sync(&work);
	remove_proc_entry("provoke", NULL);
}
module_init(start);
module_exit(end);
MODULE_LICENSE("GPL");
"""

# Has the kernel go wrong under a program, which may be killed for it.
POKE = r"""
int main(int argc, char **argv)
{
	int file = open("/proc/provoke", O_WRONLY);
	write(file, argv[1], strlen(argv[1]));
	return 0;
}
"""


def provoking(new_vm: BootVm, cell: Cell, **options: object) -> Vm:
    """Return a guest whose kernel does what is written to /proc/provoke."""
    vm = new_vm(external={"provoker": PROVOKER}, modules=["provoker"], **options)  # type: ignore[arg-type]
    vm.write("/poke", cell.compile_program(POKE))
    vm.syscall("fchmodat", -100, "/poke", 0o755)
    vm.modprobe("provoker")
    return vm


def quiet(vm: Vm) -> None:
    """Have the console show nothing but emergencies."""
    vm.write("/proc/sys/kernel/printk", "1")


def do(vm: Vm, what: str) -> None:
    """Have the kernel do something now."""
    vm.write("/proc/provoke", what)


def do_unseen(vm: Vm, what: str) -> None:
    """Have the kernel do something between two commands, with a console that does not show it."""
    quiet(vm)
    do(vm, f"later {what}")
    time.sleep(LATER_S)
