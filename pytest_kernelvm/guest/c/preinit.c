/* SPDX-License-Identifier: MIT */
/*
 * preinit - from an initramfs to a root file system of which only the store
 * and what activates it are kept, as routers have them in flash.
 *
 *	/target			of the initramfs, in memory, to be the root
 *	/target/persist		the file system that root= names
 *	/target/nix/store	its directory of that name, bound
 *
 * Modules are loaded first, /target/persist/activate makes the rest of
 * /target, then that becomes the root as the kernel would do it (see
 * prepare_namespace()), and init is executed with the arguments and
 * environment that the kernel gave us.
 *
 * Of the command line these are heeded, as Documentation/admin-guide/
 * kernel-parameters.txt has them: root=, rootfstype= (one or several, tried in
 * turn), rootflags=, ro, rw (unless told so, it is mounted to be written),
 * rootdelay=, rootwait, init= (else /init).  Of several the last one counts.
 *
 * From the initramfs: /etc/modules, names of modules for modprobe, one a line,
 * and /etc/store, the store's directory.
 */

#define PROGRAM "preinit"

#include <stddef.h>
#include <linux/fcntl.h>
#include <linux/mount.h>
#include "complaint.h"
#include "ppoll.h"
#include "run.h"

#define MNT_DETACH 2 /* include/linux/fs.h */
#define ACTIVATE "/target/persist/activate"
#define MODULES 32
#define WAIT_MS 10

static const char *device, *types, *options, *init = "/init", *delay = "";
static unsigned long how;
static int waits;

static char line[4096], modules[1024];
static char store[256], persisted[300], bound[300];

static void sleep_ms(int milliseconds)
{
	struct __kernel_timespec pause = {
		milliseconds / 1000, milliseconds % 1000 * 1000000
	};

	call5(NR_PPOLL, 0, 0, &pause, 0, 0);
}

static void mount_on(const char *source, const char *where, const char *type,
		     unsigned long flags)
{
	long error;

	call3(__NR_mkdirat, AT_FDCWD, where, 0755);
	error = call5(__NR_mount, source, where, type, flags, 0);
	if (error < 0)
		give_up("mount ", source, " on ", where, error);
}

/* Read a file, without its last newline; return whether there is one. */
static int read_file(const char *path, char *text, unsigned int size)
{
	long file = call4(__NR_openat, AT_FDCWD, path, O_RDONLY, 0);
	long length = call3(__NR_read, file, text, size - 1);

	call1(__NR_close, file);
	if (length <= 0)
		return 0;
	text[length - (text[length - 1] == '\n')] = 0;
	return 1;
}

/* Return what stands behind the name in `word`, 0 if it has another name. */
static const char *value(const char *word, const char *name)
{
	while (*name)
		if (*word++ != *name++)
			return 0;
	return word;
}

static int is(const char *word, const char *name)
{
	const char *rest = value(word, name);

	return rest && !*rest;
}

/* End the word that begins at `at`; return where the next one does. */
static char *next(char *at, char separator)
{
	while (*at && *at != separator)
		at++;
	if (*at)
		*at++ = 0;
	return at;
}

static void heed(const char *word)
{
	static const struct {
		const char *name;
		const char **value;
	} known[] = {
		{ "root=", &device }, { "rootfstype=", &types },
		{ "rootflags=", &options }, { "init=", &init },
		{ "rootdelay=", &delay },
	};
	const char *found;
	unsigned int at;

	for (at = 0; at < sizeof(known) / sizeof(*known); at++) {
		found = value(word, known[at].name);
		if (found)
			*known[at].value = found;
	}
	if (is(word, "ro"))
		how = MS_RDONLY;
	if (is(word, "rw"))
		how = 0;
	if (is(word, "rootwait"))
		waits = 1;
}

static void heed_command_line(void)
{
	char *at = line, *word;

	read_file("/proc/cmdline", line, sizeof(line));
	while (*at) {
		word = at;
		at = next(at, ' ');
		if (is(word, "--"))
			break; /* the rest is init's */
		heed(word);
	}
	if (!device || !*device)
		give_up("find root= on the command line", "", "", "", 0);
	if (!types || !*types)
		give_up("find rootfstype= on the command line", "", "", "", 0);
}

static void prepare_child(void)
{
	call3(__NR_dup3, complaints, 2, 0);
}

static void exec_failed(const char *path, long error)
{
	give_up("run ", path, "", "", error);
}

/* Run a program to its end, which is to be a good one. */
static void run_well(char *const *argv)
{
	static char *const environment[] = { "PATH=/sbin:/bin", 0 };
	long status = run(argv[0], argv, environment);

	if (status < 0)
		exec_failed(argv[0], status);
	if (status & 0x7f)
		give_up("go on: ", argv[0], " died of signal ",
			in_digits(status & 0x7f), 0);
	if (status)
		give_up("go on: ", argv[0], " ended with status ",
			in_digits(status >> 8), 0);
}

static void load_modules(void)
{
	static char *argv[MODULES + 3] = { "/sbin/modprobe", "-a" };
	char *at = modules;
	int count = 2;

	if (!read_file("/etc/modules", modules, sizeof(modules)))
		return;
	while (*at && count < MODULES + 2) {
		argv[count++] = at;
		at = next(at, '\n');
	}
	run_well(argv);
}

static void await_device(void)
{
	int seconds = 0;

	while (*delay >= '0' && *delay <= '9')
		seconds = seconds * 10 + *delay++ - '0';
	sleep_ms(seconds * 1000);
	/* Others, such as mtd:rootfs, are names that only the file system knows. */
	while (waits && *device == '/' &&
	       call3(__NR_faccessat, AT_FDCWD, device, 0) < 0)
		sleep_ms(WAIT_MS);
}

static void mount_root(void)
{
	char *type = (char *)types, *after;
	long error;

	call3(__NR_mkdirat, AT_FDCWD, "/target/persist", 0755);
	for (;;) {
		after = next(type, ',');
		error = call5(__NR_mount, device, "/target/persist", type,
				    how, options);
		if (error >= 0)
			return;
		if (!*after)
			give_up("mount ", device, " as ", type, error);
		type = after;
	}
}

static void join(char *to, const char *from, const char *behind)
{
	while (*from)
		*to++ = *from++;
	while ((*to++ = *behind++))
		;
}

static void bind_store(void)
{
	char *at = bound;

	if (!read_file("/etc/store", store, sizeof(store)))
		give_up("read /etc/store", "", "", "", 0);
	join(persisted, "/target/persist", store);
	join(bound, "/target", store);
	while (*++at) {
		if (*at != '/')
			continue;
		*at = 0;
		call3(__NR_mkdirat, AT_FDCWD, bound, 0755);
		*at = '/';
	}
	mount_on(persisted, bound, 0, MS_BIND);
}

/* What was mounted at /target is the root, also of the kernel's own threads. */
static void enter_target(void)
{
	long error;

	call2(__NR_umount2, "/proc", MNT_DETACH);
	call2(__NR_umount2, "/dev", MNT_DETACH);
	call1(__NR_chdir, "/target");
	error = call5(__NR_mount, ".", "/", 0, MS_MOVE, 0);
	if (error >= 0)
		error = call1(__NR_chroot, ".");
	if (error < 0)
		give_up("make /target the root", "", "", "", error);
}

int main(int argc, char **argv, char **environment)
{
	static char *const activate[] = { ACTIVATE, "/target", 0 };
	long log, error;

	(void)argc;
	mount_on("devtmpfs", "/dev", "devtmpfs", 0);
	mount_on("proc", "/proc", "proc", 0);
	log = call4(__NR_openat, AT_FDCWD, "/dev/kmsg", O_WRONLY | O_CLOEXEC, 0);
	if (log >= 0)
		complaints = log;
	heed_command_line();
	load_modules();
	await_device();
	/* A mount of its own, so that it can be moved. */
	mount_on("/target", "/target", 0, MS_BIND);
	mount_root();
	bind_store();
	run_well(activate);
	enter_target();
	argv[0] = (char *)init;
	error = call3(__NR_execve, init, argv, environment);
	give_up("run ", init, "", "", error);
}
