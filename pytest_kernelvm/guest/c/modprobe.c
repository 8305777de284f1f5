// SPDX-License-Identifier: MIT
/*
 * modprobe, insmod, rmmod and lsmod for a guest that has nothing else: no
 * libc, no shell, no kmod. One static program; argv[0] says which of the four
 * it is. The agent and the tests call it, and so does the kernel: a
 * request_module("ALIAS") runs
 *
 *	/sbin/modprobe -q -- ALIAS
 *
 * with no open file descriptors (kernel/module/kmod.c), once per protocol,
 * filesystem or cipher that is wanted and not there.
 *
 *
 * What it promises
 *
 * A test that passes with this program passes with kmod, so results, exit
 * statuses and messages are those of kmod 30, quirks included. They were
 * learnt by reading its sources (tools/, libkmod/) and by comparing the two
 * programs over whole module trees; a comment marks what nobody would guess.
 * Better on purpose are three things. A file that modules.dep names and the
 * disk does not have is an error that tells its path; kmod loads the module
 * without its dependencies, or talks of unknown symbols. Softdeps or commands
 * that lead back to themselves end; kmod can go on for ever. And nothing is
 * said to be 'not loaded' where /proc/modules cannot be read.
 *
 *
 * What it reads
 *
 *   ROOT/lib/modules/RELEASE/
 *     modules.dep             FILE.ko: DEPENDENCY.ko ... (all of them, not
 *                             only the direct ones; the last has to be loaded
 *                             first)
 *     modules.alias           alias PATTERN MODULE; one name may match many
 *     modules.symbols         the same for symbol:NAME
 *     modules.softdep         in the syntax of modprobe.d
 *     modules.builtin         FILE.ko, what is in the kernel image
 *     modules.builtin.modinfo MODULE.alias=PATTERN, each ended by a NUL
 *   /etc/modprobe.d, /run/modprobe.d, /usr/local/lib/modprobe.d and
 *   /lib/modprobe.d           NAME.conf: alias, blacklist, options, install,
 *                             remove, softdep (modprobe.d(5)). Of equal names
 *                             the first directory's wins; the files, with
 *                             modules.softdep among them, are read in the
 *                             order of their names
 *   /proc/cmdline             MODULE.PARAMETER=VALUE, modprobe.blacklist=A,B
 *   /proc/modules             what is loaded, by whom it is used
 *
 * kmod itself looks into the binary twins of these indexes (modules.dep.bin,
 * ...). depmod writes both from the same data and in the same order, and the
 * text needs no code for a trie.
 *
 *
 * What it leaves out
 *
 * --force, --wait, --remove-holders, --show-config, --dump-modversions, -V,
 * -h, abbreviated long options, a second -C, quotes in $MODPROBE_OPTIONS,
 * syslog (-s is accepted, messages stay on stderr), weak dependencies, and all
 * that needs a shell: install and remove commands are split at blanks and
 * executed; one that contains shell syntax is refused. A use count's holders are in the
 * kernel's order, which is not always that of the directory kmod reads.
 *
 *
 * How it is written
 *
 * Of nolibc only what start.c has. System calls return a result or a negative
 * error number, as in the kernel. Memory is taken from brk() and never given
 * back: this program lives for milliseconds. Strings that come from a file
 * point into its text, which is cut into pieces in place.
 */

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

#include <linux/fcntl.h>
#include <linux/module.h>
#include <linux/utsname.h>
#include "calls.h"
#include "run.h"

#ifndef MODULE_INIT_COMPRESSED_FILE
#define MODULE_INIT_COMPRESSED_FILE 4	/* v5.17 */
#endif

#define STDOUT 1
#define STDERR 2

#define REPORTED (-4095L)	/* failed, and the user has been told why */

static void __attribute__((noreturn)) exit(int status)
{
	for (;;)
		call1(__NR_exit, status);
}

/*
 * Memory
 */

#define HEAP_STEP 65536

static char *heap_free, *heap_end;

static void say(int fd, const char *text);

static void set_up_heap(void)
{
	heap_free = (char *)call1(__NR_brk, 0);
	heap_free += -(unsigned long)heap_free % sizeof(long);
	heap_end = heap_free;
}

/*
 * Makes sure that size bytes follow heap_free. The break moves up only and
 * nobody else moves it, so that everything below stays where it is.
 */
static void reserve(unsigned long size)
{
	char *wanted = heap_free + size + HEAP_STEP;

	if (heap_free + size <= heap_end)
		return;
	heap_end = (char *)call1(__NR_brk, wanted);
	if (heap_end != wanted) {
		say(STDERR, "out of memory\n");
		exit(1);
	}
}

static void *allocate(unsigned long size)
{
	char *block = heap_free;

	reserve(size + sizeof(long));
	heap_free += (size + sizeof(long) - 1) & -sizeof(long);
	return block;
}

/*
 * Strings
 */

/*
 * What a libc would have. The compiler, too, calls the first three.
 */

void *memcpy(void *to, const void *from, size_t size)
{
	char *out = to;
	const char *in = from;

	while (size--)
		*out++ = *in++;
	return to;
}

void *memset(void *to, int byte, size_t size)
{
	char *out = to;

	while (size--)
		*out++ = byte;
	return to;
}

size_t strlen(const char *text)
{
	const char *end = text;

	while (*end)
		end++;
	return end - text;
}

static int strcmp(const char *a, const char *b)
{
	for (; *a && *a == *b; a++)
		b++;
	return (unsigned char)*a - (unsigned char)*b;
}

static char *strrchr(const char *text, int c)
{
	const char *last = 0;

	do {
		if (*text == c)
			last = text;
	} while (*text++);
	return (char *)last;
}

static char *strchr(const char *text, int c)
{
	for (; *text != c; text++)
		if (!*text)
			return 0;
	return (char *)text;
}

static bool equal(const char *a, const char *b)
{
	return !strcmp(a, b);
}

static bool starts_with(const char *text, const char *start)
{
	for (; *start; start++)
		if (*text++ != *start)
			return false;
	return true;
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

/* template: with %s for each of the parts, and no other conversion. */
static char *format_list(const char *template, va_list parts)
{
	unsigned long length = 0;

	for (; *template; template++) {
		const char *part = template;
		unsigned long part_length = 1;

		if (*template == '%') {
			template++;
			part = va_arg(parts, const char *);
			part_length = strlen(part);
		}
		reserve(length + part_length + 1);
		memcpy(heap_free + length, part, part_length);
		length += part_length;
	}
	reserve(length + 1);
	heap_free[length] = '\0';
	return allocate(length + 1);
}

static char *format(const char *template, ...)
{
	va_list parts;
	char *text;

	va_start(parts, template);
	text = format_list(template, parts);
	va_end(parts);
	return text;
}

static char *copy(const char *text)
{
	return format("%s", text);
}

static const char *decimal(unsigned int number)
{
	char *digit = (char *)allocate(12) + 11;

	*digit = '\0';
	do {
		*--digit = '0' + number % 10;
	} while (number /= 10);
	return digit;
}

/* Cuts the next word off; 0 when only blanks are left. */
static char *next_word(char **rest)
{
	char *end = *rest, *word;

	while (is_blank(*end))
		end++;
	word = end;
	while (*end && !is_blank(*end))
		end++;
	if (*end)
		*end++ = '\0';
	*rest = end;
	return *word ? word : 0;
}

/*
 * '-' and '_' are the same in names, except in the brackets of a pattern,
 * where '-' makes a range. False: the brackets do not match.
 */
static bool use_underscores(char *name)
{
	bool in_brackets = false;

	for (; *name; name++) {
		if (*name == '[')
			in_brackets = true;
		if (*name == ']') {
			if (!in_brackets)
				return false;
			in_brackets = false;
		}
		if (*name == '-' && !in_brackets)
			*name = '_';
	}
	return !in_brackets;
}

/* What follows the last slash. */
static char *base_name(char *path)
{
	char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* The name of the module in FILE.ko: drivers/net/8139too.ko.xz -> 8139too */
static char *module_name(char *path)
{
	char *name = copy(base_name(path)), *end = strchr(name, '.');

	if (end)
		*end = '\0';
	use_underscores(name);
	return name;
}

/* The pattern behind its first element if that matches c, otherwise 0. */
static const char *match_one(const char *pattern, unsigned char c)
{
	if (*pattern == '?')
		return pattern + 1;
	if (*pattern == '[') {
		const char *p = pattern + 1;
		bool inverted = *p == '!' || *p == '^', inside = false;
		const char *first = p += inverted;

		for (; *p && (*p != ']' || p == first); p++) {
			unsigned char low = *p, high = low;

			if (p[1] == '-' && p[2] && p[2] != ']')
				high = *(p += 2);
			if (low <= c && c <= high)
				inside = true;
		}
		if (*p)
			return inside != inverted ? p + 1 : 0;
	} else if (*pattern == '\\' && pattern[1]) {
		pattern++;
	}
	return (unsigned char)*pattern == c ? pattern + 1 : 0;
}

/*
 * fnmatch(3) without flags. Only the last '*' is ever tried again, hence no
 * recursion and no exponential time.
 */
static bool matches(const char *pattern, const char *text)
{
	const char *after_star = 0, *rest = text, *next;

	for (;;) {
		if (*pattern == '*') {
			after_star = ++pattern;
			rest = text;
		} else if (!*text) {
			return !*pattern;
		} else {
			next = match_one(pattern, *text++);
			if (!next) {
				next = after_star;
				text = ++rest;
			}
			if (!next)
				return false;
			pattern = next;
		}
	}
}

/*
 * Messages
 */

/*
 * Those to stderr have the priorities of syslog, as in kmod. FATAL ends the
 * program, but not where -q suppresses it. The other two go to stdout: PRINTED
 * always, SHOWN with -v or --show-depends.
 */
enum { PRINTED = 0, FATAL = 2, ERROR = 3, WARNING = 4, SHOWN = 5 };

static const char *program;
static int verbosity;			/* -q: 0, else WARNING; and 1 per -v */
static unsigned char chosen[128];	/* options, by their letter */

/* One message is one write(), so that a console does not mix it. */
static void say(int fd, const char *text)
{
	call3(__NR_write, fd, text, strlen(text));
}

static void tell(int priority, const char *template, ...)
{
	va_list parts;
	char *text;

	if (priority > verbosity && !(priority == SHOWN && chosen['D']))
		return;
	va_start(parts, template);
	text = format_list(template, parts);
	va_end(parts);
	if (priority == PRINTED || priority == SHOWN) {
		say(STDOUT, format("%s\n", text));
		return;
	}
	say(STDERR, format("%s: %s: %s\n", program,
			   priority == FATAL ? "FATAL" :
			   priority == ERROR ? "ERROR" : "WARNING", text));
	if (priority == FATAL)
		exit(1);
}

/* In glibc's words; these are the ones that loading and unloading return. */
static const char *error_text(long err)
{
	static const unsigned char numbers[] = {
		EPERM, ENOENT, EIO, ENXIO, ENOEXEC, EAGAIN, ENOMEM, EACCES,
		EBUSY, EEXIST, ENODEV, EINVAL, ENOSYS, EBADMSG, EOPNOTSUPP,
		ENOKEY, EKEYREJECTED,
	};
	const char *text =
		"Operation not permitted\0"
		"No such file or directory\0"
		"Input/output error\0"
		"No such device or address\0"
		"Exec format error\0"
		"Resource temporarily unavailable\0"
		"Cannot allocate memory\0"
		"Permission denied\0"
		"Device or resource busy\0"
		"File exists\0"
		"No such device\0"
		"Invalid argument\0"
		"Function not implemented\0"
		"Bad message\0"
		"Operation not supported\0"
		"Required key not available\0"
		"Key was rejected by service";
	unsigned int i;

	for (i = 0; i < sizeof(numbers); i++) {
		if (numbers[i] == -err)
			return text;
		text += strlen(text) + 1;
	}
	return format("Unknown error %s", decimal(-err));
}

/*
 * Files
 */

/* What fails here fails again, harmlessly, in the calls that use it. */
static long open_file(const char *path)
{
	return call3(__NR_openat, AT_FDCWD, path, O_RDONLY);
}

static void close_file(long fd)
{
	call1(__NR_close, fd);
}

static long file_size;			/* of the file read last */

/*
 * The whole file with a NUL behind it; empty if it cannot be read. Reads to
 * the end instead of asking for the size, which files in /proc do not know.
 */
static char *read_file(const char *path)
{
	long fd = open_file(path), size = 0, got;

	do {
		reserve(size + HEAP_STEP);
		got = call3(__NR_read, fd, heap_free + size, HEAP_STEP - 1);
		if (got > 0)
			size += got;
	} while (got > 0);
	close_file(fd);
	heap_free[size] = '\0';
	file_size = size;
	return allocate(size + 1);
}

/*
 * Cuts the next line off, 0 at the end. A backslash joins two lines, and
 * vanishes everywhere else; so it is in kmod.
 */
static char *next_line(char **rest)
{
	char *in = *rest, *out = in, *line = in;

	if (!*in)
		return 0;
	for (; *in && *in != '\n'; in++) {
		if (*in == '\\' && in[1] && *++in == '\n')
			continue;
		*out++ = *in;
	}
	*rest = in + (*in != '\0');
	*out = '\0';
	return line;
}

/*
 * Modules
 */

struct module {
	struct module *next;		/* in its bucket */
	char *name;
	const char *alias;		/* it was asked for by this, or 0 */
	char *path;			/* as in modules.dep, 0 if not there */
	char *dependencies;		/* paths as in modules.dep */
	bool builtin;
	/* while a load is planned: */
	bool visited;
	bool required;			/* not only a softdep of something */
	bool ignore_command;
};

#define BUCKETS 256

static struct module *modules[BUCKETS];
static char *module_directory;		/* ROOT/lib/modules/RELEASE */

/*
 * The one object for a name, or for a name reached through an alias. The two
 * are different objects, as in kmod: options may be given to an alias, and a
 * softdep loop through an alias lists its module twice.
 */
static struct module *get_module(char *name, const char *alias)
{
	struct module **at, *module, *named = 0;
	unsigned char bucket = 0;
	const char *c;

	for (c = name; *c; c++)
		bucket = bucket * 31 + *c;
	for (at = &modules[bucket]; (module = *at); at = &module->next) {
		if (!equal(module->name, name))
			continue;
		if (module->alias == alias
		    || (alias && module->alias && equal(module->alias, alias)))
			return module;
		if (!module->alias)
			named = module;
	}
	*at = module = allocate(sizeof(*module));
	*module = (struct module){ .name = name, .alias = alias };
	if (named) {
		module->path = named->path;
		module->dependencies = named->dependencies;
		module->builtin = named->builtin;
	}
	return module;
}

struct link {
	struct link *next;
	struct module *module;
};

static void insert_link(struct link **at, struct module *module)
{
	struct link *link = allocate(sizeof(*link));

	link->next = *at;
	link->module = module;
	*at = link;
}

static void append(struct link **list, struct module *module)
{
	while (*list)
		list = &(*list)->next;
	insert_link(list, module);
}

/* In the order of loading, which is from the right of the line to the left. */
static struct link *dependencies_of(const struct module *module)
{
	struct link *list = 0;
	char *rest, *path;

	if (!module->dependencies)
		return 0;
	rest = copy(module->dependencies);
	while ((path = next_word(&rest))) {
		struct module *dependency = get_module(module_name(path), 0);

		if (!dependency->path)
			dependency->path = path;
		insert_link(&list, dependency);
	}
	return list;
}

static char *read_index(const char *name)
{
	return read_file(format("%s/%s", module_directory, name));
}

static void read_modules_dep(void)
{
	char *rest = read_index("modules.dep"), *line;

	while ((line = next_line(&rest))) {
		char *colon = strchr(line, ':');
		struct module *module;

		if (!colon)
			continue;
		*colon = '\0';
		module = get_module(module_name(line), 0);
		module->path = line;
		module->dependencies = colon + 1;
	}
}

static void read_modules_builtin(void)
{
	char *rest = read_index("modules.builtin"), *line;

	while ((line = next_line(&rest)))
		get_module(module_name(line), 0)->builtin = true;
}

/*
 * What is loaded, by /proc/modules (kernel/module/procfs.c):
 *
 *	NAME SIZE REFCOUNT HOLDER,HOLDER, Live|Loading|Unloading ADDRESS
 *
 * The holders are '-' if there are none, and end with "[permanent]," if the
 * module cannot be unloaded. Without CONFIG_MODULE_UNLOAD REFCOUNT is '-'.
 */
struct loaded {
	char *name, *size, *refcount, *holders, *state;
};

/* Makes "a,b" of the holders "a,b," and "a,b,[permanent],"; "" of "-". */
static bool parse_loaded(char *line, struct loaded *loaded)
{
	char *end;

	loaded->name = next_word(&line);
	loaded->size = next_word(&line);
	loaded->refcount = next_word(&line);
	loaded->holders = end = next_word(&line);
	loaded->state = next_word(&line);
	if (!loaded->state)
		return false;
	while (*end && *end != '[' && *end != '-')
		end++;
	if (end > loaded->holders)
		end--;
	*end = '\0';
	return true;
}

static bool find_loaded(const char *name, struct loaded *loaded)
{
	char *rest = read_file("/proc/modules"), *line;

	while ((line = next_line(&rest)))
		if (parse_loaded(line, loaded) && equal(loaded->name, name))
			return true;
	return false;
}

static bool is_in_kernel(const struct module *module)
{
	char *mark = heap_free;
	struct loaded loaded;
	bool live;

	live = module->builtin || (find_loaded(module->name, &loaded)
				   && equal(loaded.state, "Live"));
	heap_free = mark;	/* asked once per module: this would add up */
	return live;
}

/*
 * Nothing can be said about what is loaded without this file; to take that
 * for 'nothing is loaded' would turn every removal into a success.
 */
static bool can_see_modules(void)
{
	long fd = open_file("/proc/modules");

	if (fd < 0)
		tell(ERROR, "could not get list of modules: %s",
		     error_text(fd));
	close_file(fd);
	return fd >= 0;
}

/*
 * Configuration: modprobe.d, the indexes that look like it, and the kernel's
 * command line
 */

enum {
	/* in the order of the words below */
	ALIAS, BLACKLIST, INSTALL, OPTIONS, REMOVE, SOFTDEP, WEAKDEP,
	/* the same as alias, but from an index of depmod */
	MODULE_ALIAS, SYMBOL_ALIAS, BUILTIN_ALIAS,
	DIRECTIVES
};

static const char directive_words[] =
	"alias\0" "blacklist\0" "install\0" "options\0" "remove\0" "softdep\0"
	"weakdep\0";

struct directive {
	struct directive *next;
	char *name;
	char *value;
};

static struct directive *directives[DIRECTIVES], *last_directives[DIRECTIVES];

/* At the end, as the order of the files decides. */
static void add_directive(int kind, char *name, char *value)
{
	struct directive *directive = allocate(sizeof(*directive));

	*directive = (struct directive){ 0, name, value };
	if (last_directives[kind])
		last_directives[kind]->next = directive;
	else
		directives[kind] = directive;
	last_directives[kind] = directive;
}

/* The first one for this module is the only one that counts. */
static char *directive_for(const struct module *module, int kind)
{
	struct directive *directive;

	for (directive = directives[kind]; directive;
	     directive = directive->next)
		if (matches(directive->name, module->name))
			return directive->value;
	return 0;
}

/* By its exact name; a directive's name may be a pattern elsewhere. */
static bool is_listed(const char *name, int kind)
{
	struct directive *directive;

	for (directive = directives[kind]; directive;
	     directive = directive->next)
		if (equal(directive->name, name))
			return true;
	return false;
}

static bool parse_directive(const char *word, char *rest)
{
	const char *known = directive_words;
	char *name;
	int kind = 0;

	for (; !equal(known, word); known += strlen(known) + 1, kind++)
		if (!*known)
			return false;
	name = next_word(&rest);
	if (!name || !use_underscores(name))
		return false;
	if (kind == ALIAS) {
		rest = next_word(&rest);
		if (!rest || !use_underscores(rest))
			return false;
	} else if (kind != BLACKLIST && !*rest) {
		return false;
	}
	add_directive(kind, name, rest);
	return true;
}

static void read_config_file(const char *path)
{
	char *rest = read_file(path), *line, *word;

	while ((line = next_line(&rest))) {
		word = next_word(&line);
		if (word && *word != '#' && !parse_directive(word, line))
			tell(ERROR, "%s: ignoring bad line starting with '%s'",
			     path, word);
	}
}

struct config_file {
	struct config_file *next;
	char *name, *path;
};

static struct config_file *config_files;

static void add_config_file(char *path)
{
	struct config_file **at = &config_files, *file;
	char *name = base_name(path);
	int order = 1;

	while ((file = *at) && (order = strcmp(name, file->name)) > 0)
		at = &file->next;
	if (!order)
		return;
	*at = allocate(sizeof(*file));
	**at = (struct config_file){ file, name, path };
}

/* What getdents64(2) fills in. */
struct directory_entry {
	unsigned long long inode;
	long long offset;
	unsigned short length;
	unsigned char type;
	char name[];
};

static bool ends_with(const char *text, const char *end)
{
	unsigned long text_length = strlen(text), length = strlen(end);

	return text_length > length
	       && equal(text + text_length - length, end);
}

/* A directory, or a single file as -C may name it. */
static void find_config_files(char *path)
{
	unsigned long long buffer[256];
	long fd = open_file(path), filled, at;

	while ((filled = call3(__NR_getdents64, fd, buffer,
			       sizeof(buffer))) > 0) {
		for (at = 0; at < filled;) {
			struct directory_entry *entry =
				(void *)((char *)buffer + at);

			if (*entry->name != '.'
			    && (ends_with(entry->name, ".conf")
				|| ends_with(entry->name, ".alias")))
				add_config_file(format("%s/%s", path,
						       entry->name));
			at += entry->length;
		}
	}
	close_file(fd);
	if (filled == -ENOTDIR)
		add_config_file(path);
}

/*
 * MODULE.PARAMETER[=VALUE]. Everything else on the kernel's command line
 * belongs to the kernel or to init.
 */
static void parse_boot_parameter(char *word)
{
	bool quoted = *word == '"';	/* some boot loaders quote the whole */
	char *module = word + quoted, *dot = 0, *parameter, *end, *name;

	for (end = module; *end && *end != '='; end++) {
		if (*end == '"' || is_blank(*end) || (*end == '.' && dot))
			return;
		if (*end == '.')
			dot = end;
	}
	if (!dot || (quoted && !*end))
		return;
	*dot = '\0';
	parameter = dot + 1;
	if (quoted) {
		*end = '\0';
		parameter = format("%s=\"%s", parameter, end + 1);
	}
	if (equal(module, "modprobe")
	    && starts_with(parameter, "blacklist=")) {
		parameter += 10;
		for (name = parameter; *name; name++)
			if (*name == ',')
				*name = ' ';
		while ((name = next_word(&parameter)))
			add_directive(BLACKLIST, name, 0);
	} else if (use_underscores(module)) {
		add_directive(OPTIONS, module, parameter);
	}
}

static void read_kernel_command_line(void)
{
	char *end = read_file("/proc/cmdline"), *word;
	bool in_quotes = false;

	while (*end) {
		for (word = end; *end; end++) {
			if (!in_quotes && (is_blank(*end) || *end == '\n'))
				break;
			in_quotes ^= *end == '"';
		}
		if (*end)
			*end++ = '\0';
		parse_boot_parameter(word);
	}
}

/*
 * From a name to modules
 */

/*
 * "alias PATTERN MODULE", where the pattern may contain blanks. Can be a
 * megabyte: read when first needed.
 */
static void read_alias_index(int kind, const char *file)
{
	char *rest = read_index(file), *line, *blank;

	while ((line = next_line(&rest))) {
		blank = strrchr(line, ' ');
		if (!starts_with(line, "alias ") || blank < line + 6)
			continue;
		*blank = '\0';
		if (use_underscores(line + 6))
			add_directive(kind, line + 6, blank + 1);
	}
}

static void read_builtin_aliases(void)
{
	char *string = read_index("modules.builtin.modinfo"), *dot;
	char *end = string + file_size;

	for (; string < end; string = dot + strlen(dot) + 1) {
		dot = strchr(string, '.');
		if (!dot)
			break;
		*dot++ = '\0';
		if (starts_with(dot, "alias=") && use_underscores(dot + 6)) {
			get_module(string, 0)->builtin = true;
			add_directive(BUILTIN_ALIAS, dot + 6, string);
		}
	}
}

static bool find_aliases(int kind, const char *name, struct link **list)
{
	struct directive *directive;

	for (directive = directives[kind]; directive;
	     directive = directive->next)
		if (matches(directive->name, name))
			append(list, get_module(directive->value,
						kind == ALIAS ? directive->name
							      : name));
	return *list;
}

/*
 * The order of kmod: aliases of the administrator, modules, symbols, commands,
 * aliases of the modules, what is built in. The first that knows the name
 * decides.
 */
static struct link *look_up(const char *given_name)
{
	static bool aliases_are_read;
	struct module *module;
	struct link *list = 0;
	char *name = copy(given_name);

	if (!use_underscores(name) || find_aliases(ALIAS, name, &list))
		return list;
	module = get_module(name, 0);
	if (module->path)
		goto found;

	if (!aliases_are_read) {
		aliases_are_read = true;
		read_alias_index(SYMBOL_ALIAS, "modules.symbols");
		read_alias_index(MODULE_ALIAS, "modules.alias");
		read_builtin_aliases();
	}
	if (find_aliases(SYMBOL_ALIAS, name, &list))
		return list;
	if (is_listed(name, INSTALL) || is_listed(name, REMOVE))
		goto found;
	if (find_aliases(MODULE_ALIAS, name, &list))
		return list;
	if (!module->builtin) {
		find_aliases(BUILTIN_ALIAS, name, &list);
		return list;
	}
found:
	append(&list, module);
	return list;
}

/*
 * "softdep MODULE pre: A B post: C" - the lists of the first line for this
 * module. Names that nobody knows are dropped without a word.
 */
static void find_softdeps(const struct module *module, struct link **pre,
			  struct link **post)
{
	char *rest = directive_for(module, SOFTDEP), *word;
	struct link **list = 0, *found;

	*pre = *post = 0;
	if (!rest)
		return;
	rest = copy(rest);
	while ((word = next_word(&rest))) {
		if (equal(word, "pre:"))
			list = pre;
		else if (equal(word, "post:"))
			list = post;
		else if (list)
			for (found = look_up(word); found; found = found->next)
				append(list, found->module);
	}
}

/* From modprobe.d and the kernel's command line, in this order. */
static char *options_of(const struct module *module)
{
	struct directive *directive;
	char *options = 0, *c;

	for (directive = directives[OPTIONS]; directive;
	     directive = directive->next)
		if (*directive->value
		    && (equal(directive->name, module->name)
			|| (module->alias
			    && equal(directive->name, module->alias))))
			options = options
				  ? format("%s %s", options, directive->value)
				  : copy(directive->value);
	for (c = options; c && *c; c++)
		if (*c == '\t')
			*c = ' ';
	return options;
}

/*
 * Commands of install and remove
 */

static char **environment;

/* The options that a modprobe in a command is to have as well. */
static const char *inherited;

static void prepare_child(void)
{
}

static void exec_failed(const char *path, long error)
{
	(void)path;
	(void)error;
	exit(127);
}

/* Exit status of the program. */
static long run_words(char **words, char **variables)
{
	char *name = base_name(*words);
	long status;

	/* A shell has them built in, and blacklists are made of them. */
	if (equal(name, "true") || equal(name, ":"))
		return 0;
	if (equal(name, "false"))
		return 1;
	status = run(strchr(*words, '/') ? *words : format("/sbin/%s", name),
		     words, variables);
	return status < 0 ? 127 : (status >> 8) & 0xff;
}

/*
 * Exit status of the command. Its environment names the module, as in kmod,
 * and in front of those that ran it: that tells a modprobe in it when it is
 * about to do what its ancestor is doing, and would go on for ever.
 */
static long run_command(const struct module *module, const char *command,
			const char *options)
{
	char *note = format("MODPROBE_MODULE=%s", module->name);
	char *rest = copy(command), **words, **variables, *c;
	unsigned long count = 0;

	words = allocate((strlen(command) + strlen(options) + 1)
			 * sizeof(*words));
	while ((words[count] = next_word(&rest))) {
		if (equal(words[count], "$CMDLINE_OPTS")) {
			rest = format("%s %s", options, rest);
			options = "";
			continue;
		}
		for (c = words[count++]; *c; c++) {
			if (strchr("|&;<>()$`\\\"'*?[]#~{}!", *c)) {
				tell(ERROR, "there is no shell for '%s'",
				     command);
				return 126;
			}
		}
	}
	if (!count)
		return 0;
	for (count = 0; environment[count]; count++) {
		if (equal(environment[count], note)) {
			tell(ERROR, "'%s' calls itself", command);
			return 126;
		}
	}
	/* Of variables with the same name the first counts. */
	variables = allocate((count + 3) * sizeof(*variables));
	variables[0] = note;
	variables[1] = (char *)inherited;
	memcpy(variables + 2, environment, (count + 1) * sizeof(*variables));
	return run_words(words, variables);
}

/*
 * Options of the command line
 */

/* What has no letter has a number. */
enum { FIRST_TIME = 1 };

/* The letter, and the name it has behind "--". */
static const char long_options[] =
	"aall\0" "rremove\0" "Rresolve-alias\0" "iignore-install\0"
	"iignore-remove\0" "buse-blacklist\0" "Dshow-depends\0" "ndry-run\0"
	"nshow\0" "Cconfig\0" "ddirname\0" "Sset-version\0" "ssyslog\0"
	"qquiet\0" "vverbose\0" "\1first-time\0";

static const char *allowed_options;
static char *arguments[128];		/* of options, by their letter */
static char **unparsed, **operands;
static int operand_count;

/* In the words of glibc's getopt_long(3). */
static void bad_option(const char *complaint, const char *option)
{
	say(STDERR, format("%s: %s'%s'\n", program, complaint, option));
	exit(1);
}

static bool takes_argument(char letter)
{
	return letter == 'C' || letter == 'd' || letter == 'S';
}

/* argument: what the same word has behind the option, or 0. */
static void take_option(char letter, char *argument, const char *name)
{
	if (takes_argument(letter) && !argument) {
		argument = *unparsed++;
		if (!argument)
			bad_option("option requires an argument -- ", name);
	}
	chosen[(int)letter]++;
	arguments[(int)letter] = argument;
	if (strchr("Cqsv", letter)) {
		char option[2] = { letter, '\0' };

		inherited = format("%s-%s %s ", inherited, option,
				   argument ? argument : "");
	}
}

static bool is_allowed(char letter)
{
	return letter && strchr(allowed_options, letter);
}

static void parse_long_option(char *word)
{
	const char *known = long_options;
	char *argument = strchr(word, '=');

	if (argument)
		*argument++ = '\0';
	while (*known && !equal(known + 1, word + 2))
		known += strlen(known) + 1;
	if (!is_allowed(*known) || (argument && !takes_argument(*known)))
		bad_option("unrecognized option ", word);
	take_option(*known, argument, word);
}

static void parse_short_options(char *word)
{
	while (*++word) {
		char letter[2] = { *word, '\0' };
		bool last = takes_argument(*word);

		if (!is_allowed(*word))
			bad_option("invalid option -- ", letter);
		take_option(*word, last && word[1] ? word + 1 : 0, letter);
		if (last)
			return;
	}
}

/*
 * Like getopt_long(3): options may come after operands, letters may share a
 * '-', an argument may be in its option's word or in the next one.
 */
static void parse_options(void)
{
	bool all_operands = false;
	char *word;

	while ((word = *unparsed++)) {
		if (all_operands || *word != '-' || !word[1])
			operands[operand_count++] = word;
		else if (word[1] != '-')
			parse_short_options(word);
		else if (word[2])
			parse_long_option(word);
		else
			all_operands = true;
	}
}

/* kmod's LOG(): fatal, except with -a, where the other names come next. */
static int failure(void)
{
	return chosen['a'] ? WARNING : FATAL;
}

static void find_module_directory(void)
{
	struct new_utsname *system = allocate(sizeof(*system));

	call1(__NR_uname, system);
	module_directory = format("%s/lib/modules/%s",
				  arguments['d'] ? arguments['d'] : "",
				  arguments['S'] ? arguments['S']
						 : system->release);
}

/*
 * Loading
 */

/*
 * The kernel unpacks what CONFIG_MODULE_COMPRESS_* says it can, if it is told
 * that there is something to unpack. Before v3.8 there was only init_module.
 */
static long insert(const char *path, const char *options)
{
	bool packed = ends_with(path, ".gz") || ends_with(path, ".xz")
		      || ends_with(path, ".zst");
	long fd = open_file(path), err;
	char *image;

	err = call3(__NR_finit_module, fd, options,
		    packed ? MODULE_INIT_COMPRESSED_FILE : 0);
	close_file(fd);
	if (err != -ENOSYS)
		return err;
	image = read_file(path);
	return call3(__NR_init_module, image, file_size, options);
}

static void plan_load(struct module *module, bool required,
		      bool ignore_command, struct link **plan);

static void plan_with_softdeps(struct module *module, struct link **plan)
{
	struct link *pre, *post;

	find_softdeps(module, &pre, &post);
	/* Who has softdeps loses its install command (kmod issue 446). */
	module->ignore_command = pre || post;
	for (; pre; pre = pre->next)
		plan_load(pre->module, false, false, plan);
	append(plan, module);
	for (; post; post = post->next)
		plan_load(post->module, false, false, plan);
}

/*
 * Appends what has to be loaded, in order. A module may occur more than once:
 * 'visited' guards only what is asked for by name, not the dependencies of
 * it. That is enough to end every loop, because a line of modules.dep is
 * complete and needs no recursion.
 */
static void plan_load(struct module *module, bool required,
		      bool ignore_command, struct link **plan)
{
	struct link *dependencies, *link;

	if (module->visited)
		return;
	module->visited = true;
	module->required |= required;
	dependencies = dependencies_of(module);
	for (link = dependencies; link; link = link->next)
		link->module->required |= required;
	for (link = dependencies; link; link = link->next)
		plan_with_softdeps(link->module, plan);
	if (ignore_command) {
		module->ignore_command = true;
		append(plan, module);
	} else {
		plan_with_softdeps(module, plan);
	}
}

static void forget_plan(void)
{
	struct module *module;
	int bucket;

	for (bucket = 0; bucket < BUCKETS; bucket++)
		for (module = modules[bucket]; module; module = module->next)
			module->visited = module->required = false;
}

/* options: of the command line; wanted: the module that all this is for. */
static long load_one(const struct module *module, const char *options,
		     const char *wanted)
{
	char *configured = options_of(module), *path;
	char *command = directive_for(module, INSTALL);
	long err;

	if (configured)
		options = format("%s %s", configured, options);
	if (command && !module->ignore_command) {
		tell(SHOWN, "install %s %s", command, options);
		if (chosen['n'])
			return 0;
		err = run_command(module, command, options);
		if (!err)
			return 0;
		tell(ERROR, "Error running install command '%s' for module %s: "
		     "retcode %s", command, module->name, decimal(err));
		return -EINVAL;
	}
	if (!module->path) {
		if (module->builtin)
			tell(SHOWN, "builtin %s", module->name);
		if (module->builtin || chosen['n'])
			return 0;
		tell(ERROR, "could not find module by name='%s'", module->name);
		return -ENOENT;
	}
	path = *module->path == '/' ? module->path
				    : format("%s/%s", module_directory,
					     module->path);
	tell(SHOWN, "insmod %s %s", path, options);
	err = call3(__NR_faccessat, AT_FDCWD, path, 0);
	if (err < 0) {
		tell(ERROR, "could not insert '%s': %s: %s", wanted, path,
		     error_text(err));
		return REPORTED;
	}
	return chosen['n'] ? 0 : insert(path, options);
}

static long load(struct module *module, const char *options)
{
	struct link *plan = 0;
	long err;

	if (!chosen['D'] && is_in_kernel(module))
		return chosen[FIRST_TIME] ? -EEXIST : 0;
	if ((module->alias || chosen['b'])
	    && is_listed(module->name, BLACKLIST))
		return 0;

	forget_plan();
	plan_load(module, true, chosen['i'], &plan);
	for (; plan; plan = plan->next) {
		struct module *next = plan->module;

		err = -EEXIST;
		if (chosen['D'] || !is_in_kernel(next))
			err = load_one(next, next == module ? options : "",
				       module->name);
		if (err == -EEXIST ? next == module && chosen[FIRST_TIME]
				   : err < 0 && next->required)
			return err;
	}
	return 0;
}

/* Where an alias means several modules the last one decides, as in kmod. */
static long load_named(const char *name, const char *options)
{
	struct link *found = look_up(name);
	long err = -ENOENT;

	if (!found)
		tell(failure(), "Module %s not found in directory %s", name,
		     module_directory);
	for (; found; found = found->next) {
		struct module *module = found->module;

		err = 0;
		if (chosen['R'])
			tell(PRINTED, "%s", module->name);
		else
			err = load(module, options);
		if (err < 0 && err != REPORTED)
			tell(ERROR, "could not insert '%s': %s", module->name,
			     err == -EEXIST ? "Module already in kernel" :
			     err == -ENOENT ? "Unknown symbol in module, or "
					      "unknown parameter (see dmesg)"
					    : error_text(err));
	}
	return err;
}

/* The kernel splits its parameters at blanks that are not in quotes. */
static char *quote_parameter(char *word)
{
	char *value = strchr(word, '=');

	if (!value || value[1] == '"' || value[1] == '\''
	    || !strchr(value, ' '))
		return word;
	*value = '\0';
	return format("%s=\"%s\"", word, value + 1);
}

static char *join_parameters(bool quote)
{
	char **word, *joined = 0, *parameter;

	for (word = operands + 1; *word; word++) {
		parameter = quote ? quote_parameter(*word) : *word;
		joined = joined ? format("%s %s", joined, parameter)
				: parameter;
	}
	return joined ? joined : "";
}

/*
 * Removing
 */

static long delete_module(const char *name)
{
	long err = call2(__NR_delete_module, name, O_NONBLOCK);

	if (err < 0)
		tell(ERROR, "could not remove '%s': %s", name, error_text(err));
	return err;
}

static long remove_one(const char *name)
{
	tell(SHOWN, "rmmod %s", name);
	return chosen['n'] ? 0 : delete_module(name);
}

static long unload(struct module *module, bool is_softdep);

/* What becomes of a softdep does not matter. */
static void unload_reversed(const struct link *list)
{
	if (list) {
		unload_reversed(list->next);
		unload(list->module, true);
	}
}

static long unload(struct module *module, bool is_softdep)
{
	struct link *pre = 0, *post = 0, *link;
	struct loaded loaded;
	char *command = 0;
	bool is_loaded;

	/* kmod has no such guard, and softdeps in a loop can make it hang. */
	if (module->visited)
		return 0;
	module->visited = true;
	if (!chosen['i']) {
		find_softdeps(module, &pre, &post);
		command = directive_for(module, REMOVE);
	}
	if (!command && !chosen['D']) {
		if (module->builtin) {
			if (is_softdep)
				return 0;
			tell(failure(), "Module %s is builtin.", module->name);
			return REPORTED;
		}
		if (!find_loaded(module->name, &loaded)) {
			if (!can_see_modules())
				return REPORTED;
			if (!chosen[FIRST_TIME])
				return 0;
			tell(failure(), "Module %s is not in kernel.",
			     module->name);
			return REPORTED;
		}
	}
	unload_reversed(post);
	is_loaded = find_loaded(module->name, &loaded);
	if (command) {
		tell(SHOWN, "remove %s", command);
		if (!chosen['n'] && run_command(module, command, "")) {
			tell(failure(), "Error running remove command for %s",
			     module->name);
			return REPORTED;
		}
	} else {
		if (!chosen['D'] && is_loaded && *loaded.refcount != '-'
		    && !equal(loaded.refcount, "0")) {
			tell(failure(), "Module %s is in use.", module->name);
			return REPORTED;
		}
		if (remove_one(module->name) < 0)
			return REPORTED;
		/*
		 * Then the dependencies that nobody uses. They are tried once
		 * and in the order of loading, so that of a chain only the
		 * last link goes; kmod's -r does no more.
		 */
		for (link = dependencies_of(module); link; link = link->next)
			if (find_loaded(link->module->name, &loaded)
			    && equal(loaded.refcount, "0"))
				remove_one(link->module->name);
	}
	unload_reversed(pre);
	return 0;
}

static long unload_named(const char *name)
{
	struct link *found = look_up(name);
	long err = 0;

	if (!found) {
		tell(failure(), "Module %s not found.", name);
		return REPORTED;
	}
	for (; found && err >= 0; found = found->next) {
		forget_plan();
		err = unload(found->module, false);
	}
	return err;
}

/*
 * The four programs. True: it failed.
 */

static bool modprobe(void)
{
	static const char config_directories[] =
		"etc\0" "run\0" "usr/local/lib\0" "lib\0";
	const char *where;
	struct config_file *file;
	bool failed = false;
	char **name;

	read_modules_dep();
	read_modules_builtin();
	add_config_file(format("%s/modules.softdep", module_directory));
	if (arguments['C']) {
		find_config_files(arguments['C']);
	} else {
		for (where = config_directories; *where;
		     where += strlen(where) + 1)
			find_config_files(format("/%s/modprobe.d", where));
	}
	for (file = config_files; file; file = file->next)
		read_config_file(file->path);
	read_kernel_command_line();

	if (!chosen['r'] && !chosen['a'])
		return load_named(*operands, join_parameters(true)) < 0;
	for (name = operands; *name; name++)
		failed |= (chosen['r'] ? unload_named(*name)
				       : load_named(*name, "")) < 0;
	return failed;
}

static bool insmod(void)
{
	const char *file = *operands;
	long err = call3(__NR_faccessat, AT_FDCWD, file, 0);

	if (err < 0) {
		tell(ERROR, "could not load module %s: %s", file,
		     error_text(err));
		return true;
	}
	err = insert(file, join_parameters(false));
	if (err < 0)
		tell(ERROR, "could not insert module %s: %s", file,
		     err == -ENOEXEC ? "Invalid module format" :
		     err == -ENOENT ? "Unknown symbol in module" :
		     err == -EINVAL ? "Invalid parameters" : error_text(err));
	return err < 0;
}

/* True: failed. Holders and a use count stop it before it asks the kernel. */
static bool rmmod_one(char *name)
{
	const struct module *module = get_module(module_name(name), 0);
	struct loaded loaded;
	long err;
	char *c;

	if (module->builtin) {
		tell(ERROR, "Module %s is builtin.", module->name);
	} else if (!find_loaded(module->name, &loaded)) {
		if (can_see_modules())
			tell(ERROR, "Module %s is not currently loaded",
			     module->name);
	} else if (*loaded.holders) {
		for (c = loaded.holders; *c; c++)
			if (*c == ',')
				*c = ' ';
		tell(ERROR, "Module %s is in use by: %s", module->name,
		     loaded.holders);
	} else if (*loaded.refcount == '-') {
		tell(ERROR, "Module unloading is not supported");
	} else if (!equal(loaded.refcount, "0")) {
		tell(ERROR, "Module %s is in use", module->name);
	} else {
		err = delete_module(module->name);
		if (err < 0)
			tell(ERROR, "could not remove module %s: %s", name,
			     error_text(err));
		return err < 0;
	}
	return true;
}

static bool rmmod(void)
{
	bool failed = false;
	char **name;

	read_modules_builtin();
	for (name = operands; *name; name++)
		failed |= rmmod_one(*name);
	return failed;
}

/* Blanks that make text as wide as width. */
static const char *padding(const char *text, long width)
{
	static const char blanks[] = "                   ";

	width -= strlen(text);
	return blanks + sizeof(blanks) - 1 - (width > 0 ? width : 0);
}

static bool lsmod(void)
{
	char *rest = read_file("/proc/modules"), *line;
	struct loaded loaded;

	if (*operands) {
		tell(ERROR, "too many arguments provided.");
		return true;
	}
	if (!can_see_modules())
		return true;
	tell(PRINTED, "Module                  Size  Used by");
	while ((line = next_line(&rest)))
		if (parse_loaded(line, &loaded))
			/* -2: what kmod makes of a use count that is missing */
			tell(PRINTED, "%s%s %s%s  %s%s%s", loaded.name,
			     padding(loaded.name, 19), padding(loaded.size, 8),
			     loaded.size, *loaded.refcount == '-'
					  ? "-2" : loaded.refcount,
			     *loaded.holders ? " " : "", loaded.holders);
	return false;
}

static const struct {
	const char *name;
	const char *options;		/* letters it takes */
	const char *operand;		/* that it cannot do without */
	bool (*run)(void);
} programs[] = {
	{ "modprobe", "arRibDnCdSsqv\1", "parameters", modprobe },
	{ "insmod", "ps", "filename", insmod },
	{ "rmmod", "sv", "module name", rmmod },
	{ "lsmod", "sv", 0, lsmod },
};

int main(int argc, char **argv, char **envp)
{
	unsigned int i, count;
	char *rest;

	set_up_heap();
	program = base_name(argv[0]);
	environment = envp;
	inherited = "MODPROBE_OPTIONS=";
	for (i = 0; !equal(programs[i].name, program); i++)
		if (i == sizeof(programs) / sizeof(programs[0]) - 1)
			bad_option("there is no program ", program);
	allowed_options = programs[i].options;
	/* $MODPROBE_OPTIONS comes before the command line. */
	while (*envp && (i || !starts_with(*envp, inherited)))
		envp++;
	rest = *envp ? copy(*envp + strlen(inherited)) : "";
	operands = allocate((argc + strlen(rest)) * sizeof(*operands));
	unparsed = allocate((argc + strlen(rest)) * sizeof(*unparsed));
	for (count = 0; (unparsed[count] = next_word(&rest)); count++)
		;
	memcpy(unparsed + count, argv + 1, argc * sizeof(*argv));
	parse_options();
	operands[operand_count] = 0;
	if (chosen['D'])
		chosen['n'] = true;
	verbosity = (chosen['q'] ? 0 : WARNING) + chosen['v'];
	if (programs[i].operand && !operand_count) {
		tell(ERROR, "missing %s.", programs[i].operand);
		return 1;
	}
	find_module_directory();
	return programs[i].run();
}

/*
 * Where newer nolibc goes from its first instructions, with the stack as
 * execve(2) leaves it. Its own is weak, and runs constructors.
 */
void _start_c(long *stack)
{
	char **argv = (char **)(stack + 1);

	exit(main(*stack, argv, argv + *stack + 1));
}
