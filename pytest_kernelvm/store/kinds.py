"""What a store keeps: one row for each directory (or file) below its root.

All code that writes into a store names the row, so that `ls`, `gc`, `verify` and `clean` know
everything that is there. Some directories are not called what they hold: existing stores have those
names, and the row says what they mean.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

DAY_S: Final = 86400.0
# What the name of a file ends with that is not downloaded completely.
PART: Final = ".part"


class Form(enum.Enum):
    """How the things of a kind lie in its directory; the value says it in words."""

    ENTRY = "directories DIGEST with entry.json, complete or absent, never changed"
    WORK = "directories DIGEST that are changed in place by whoever holds their lock"
    ARCHIVE = "files that are named by the digest of their bytes"
    RECORD = "small files, each written in one step"
    NAMED = "directories with names that people read"
    INTERNAL = "bookkeeping of the store and of the programs that it runs"


class Clean(enum.Enum):
    """Which command removes all of a kind; the value is that command."""

    BUILT = "clean"
    SOURCES = "clean --sources"
    DOWNLOADS = "clean --downloads"
    NEVER = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How much of a kind stays when something is added to it; None for no limit.

    Attributes:
        most: How many.
        most_bytes: Of all together.
        most_age_s: Seconds since the last use.
    """

    most: int | None = None
    most_bytes: int | None = None
    most_age_s: float | None = None

    def __str__(self) -> str:
        words = (
            f"at most {self.most}" if self.most is not None else "",
            f"{self.most_bytes >> 30} GiB" if self.most_bytes is not None else "",
            f"{self.most_age_s / DAY_S:g} days" if self.most_age_s is not None else "",
        )
        return ", ".join(word for word in words if word)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """One kind of thing in a store.

    Attributes:
        name: Of its directory below the root.
        what: What it is, in words.
        form: How the things lie in the directory.
        remade: Whether what is removed is made or fetched again when it is needed.
        clean: Which command removes all of it.
        limits: What stays when something is added.
        verified: Whether there are digests by which `store verify` finds damage.
        note: Of WORK, the file in each directory whose time is that of the last use. It is absent
            while somebody works there, and after that process was killed.
        sized: Of ENTRY, whether size and digest of each file are recorded. Else there are too many
            files, and one digest is recorded of all.
        read_only: Of ENTRY, whether such files become read-only.
        only_digests: Whether the store names all that it puts there by a digest. Other programs use
            a directory of this name too; what has another name is theirs, and stays.
    """

    name: str
    what: str
    form: Form
    remade: bool = True
    clean: Clean = Clean.BUILT
    limits: Limits = Limits()
    verified: bool = True
    note: str = ""
    sized: bool = True
    read_only: bool = True
    only_digests: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def collected(self) -> bool:
        """Whether `store ls` lists it and `store gc` may remove it by age and size."""
        return self.form in (Form.ENTRY, Form.WORK, Form.ARCHIVE)

    @property
    def removed_by(self) -> str:
        """What removes it, in words."""
        return ", ".join(
            words
            for words in (
                f"its limit ({self.limits})" if str(self.limits) else "",
                "store gc" if self.collected else "",
                self.clean.value,
            )
            if words
        )


KERNELS = Kind(
    name="kernels",
    what="kernels: image, vmlinux, modules, headers, .config, build log",
    form=Form.ENTRY,
)
DEVEL = Kind(
    name="devel",
    what="what modules are built against: for each kernel the files that kbuild needs",
    form=Form.ENTRY,
    sized=False,
)
REQUESTS = Kind(
    name="requests",
    what="which kernel was built for a source, configuration and compiler",
    form=Form.RECORD,
)
BUILDS = Kind(
    name="builds",
    what="build directories, so that a kernel much like an earlier one is compiled in part",
    form=Form.WORK,
    verified=False,
    # A build directory of our cells has 150 to 250 MB, of a defconfig up to ten times that.
    limits=Limits(most=12, most_bytes=8 << 30),
    note="note.json",
)
CONFIGS = Kind(
    name="configs",
    what="final .config files, by what decides them",
    form=Form.RECORD,
    verified=False,
)
CONF_PROGRAMS = Kind(
    name="conf",
    what="kbuild's programs conf and fixdep, compiled, and the shell's answers to conf",
    form=Form.ENTRY,
)
COMPILERS = Kind(
    name="compilers",
    what="scripts through which make calls the compiler (ccache, remembered answers)",
    form=Form.ENTRY,
)
HEADERS = Kind(
    name="headers",
    what="UAPI and nolibc headers of a source whose kernel is not built",
    form=Form.ENTRY,
)
OUT_OF_TREE_BUILDS = Kind(
    name="external",
    what="copies of directories with modules of users, and what make left there",
    form=Form.WORK,
    verified=False,
    note="files.json",
)
MODULE_TREES = Kind(
    name="trees",
    what="lib/modules directories of kernels together with modules of tests",
    form=Form.ENTRY,
)
GUEST_PROGRAMS = Kind(
    name="guests",
    what="programs that run in guests: agent, modprobe, preinit",
    form=Form.ENTRY,
)
USERLANDS = Kind(
    name="userlands",
    what="programs of Debian for guests: kmod, busybox",
    form=Form.ENTRY,
)
UBOOTS = Kind(
    name="uboots",
    what="U-Boot for a machine, and mkimage",
    form=Form.ENTRY,
)
INITRAMFS = Kind(
    name="initramfs",
    what="initramfs archives",
    form=Form.ARCHIVE,
)
ROOTS = Kind(
    name="roots",
    what="root file system images, and the first stages and device trees that announce them",
    form=Form.ENTRY,
)
SNAPSHOTS = Kind(
    name="snapshots",
    what="guests as they were when their agent first answered: memory and devices",
    form=Form.ENTRY,
    limits=Limits(most_bytes=8 << 30),
    # QEMU 7.2 opens a memory file for writing even where it maps it privately.
    read_only=False,
)
CALIBRATIONS = Kind(
    name="paces",
    what="calibrations: how fast QEMU runs guests on this machine",
    form=Form.ENTRY,
)
FAILURES = Kind(
    name="failures",
    what="bundles of failed tests (`kernelvm kept`, `replay`)",
    form=Form.NAMED,
    verified=False,
    remade=False,
    limits=Limits(most=50, most_age_s=14 * DAY_S),
)
LOGS = Kind(
    name="logs",
    what="logs of builds that failed and of guests",
    form=Form.NAMED,
    verified=False,
    remade=False,
)
TEMPORARY = Kind(
    name="tmp",
    what="work of running processes; what a killed one left is removed by the next one",
    form=Form.INTERNAL,
    verified=False,
)
SOURCES = Kind(
    name="sources",
    what="unpacked kernel sources, with and without patches",
    form=Form.ENTRY,
    clean=Clean.SOURCES,
    sized=False,
)
TREE_COPIES = Kind(
    name="mirrors",
    what="copies of users' working trees, with patches, which are built from",
    form=Form.WORK,
    verified=False,
    clean=Clean.SOURCES,
    note="files.json",
)
TREE_DIGESTS = Kind(
    name="worktrees",
    what="digests of the files of users' working trees, so that they are not read again",
    form=Form.RECORD,
    verified=False,
    clean=Clean.SOURCES,
)
PACKAGES = Kind(
    name="packages",
    what="downloaded .deb files and source packages of Debian",
    form=Form.ENTRY,
    clean=Clean.DOWNLOADS,
    only_digests=True,
)
PACKAGE_LISTS = Kind(
    name="apt",
    what="package lists of Debian suites, with apt's own state",
    form=Form.INTERNAL,
    verified=False,
    clean=Clean.DOWNLOADS,
)
DOWNLOADS = Kind(
    name="downloads",
    what="downloaded files; DIGEST.part is a download that is not complete",
    form=Form.ENTRY,
    clean=Clean.DOWNLOADS,
    only_digests=True,
)
REPOSITORIES = Kind(
    name="git",
    what="bare git repositories with commits that were fetched",
    form=Form.INTERNAL,
    verified=False,
    clean=Clean.DOWNLOADS,
    only_digests=True,
)
RESOLVED_NAMES = Kind(
    name="resolved",
    what="which package or tarball a name or a version stands for",
    form=Form.RECORD,
    verified=False,
    clean=Clean.DOWNLOADS,
)
LOCKS = Kind(
    name="locks",
    what="files whose locks say that somebody makes or removes something",
    form=Form.INTERNAL,
    verified=False,
    clean=Clean.NEVER,
)
USES = Kind(
    name="uses",
    what="which process uses what; what is in use is not removed",
    form=Form.INTERNAL,
    verified=False,
    clean=Clean.NEVER,
)
HISTORY = Kind(
    name="history",
    what="a file: the lines that were typed at the prompts of guests",
    form=Form.INTERNAL,
    verified=False,
    remade=False,
    clean=Clean.NEVER,
)

KINDS: Final = (
    KERNELS,
    REQUESTS,
    BUILDS,
    CONF_PROGRAMS,
    CONFIGS,
    COMPILERS,
    DEVEL,
    HEADERS,
    OUT_OF_TREE_BUILDS,
    MODULE_TREES,
    GUEST_PROGRAMS,
    USERLANDS,
    UBOOTS,
    INITRAMFS,
    ROOTS,
    SNAPSHOTS,
    CALIBRATIONS,
    FAILURES,
    LOGS,
    TEMPORARY,
    SOURCES,
    TREE_COPIES,
    TREE_DIGESTS,
    PACKAGES,
    PACKAGE_LISTS,
    DOWNLOADS,
    REPOSITORIES,
    RESOLVED_NAMES,
    LOCKS,
    USES,
    HISTORY,
)
_BY_NAME = {kind.name: kind for kind in KINDS}


def kind_of(name: str) -> Kind:
    """Return the kind of a directory of a store.

    Args:
        name: Of the directory.

    Returns:
        The row of the registry. For a name without a row, one that says that another version has
        put entries there.
    """
    found = _BY_NAME.get(name)
    return found or Kind(name=name, what="of another version", form=Form.ENTRY, clean=Clean.NEVER)


def cleaned_by(*commands: Clean) -> tuple[Kind, ...]:
    """Return the kinds that some commands remove, in the order of the registry."""
    return tuple(kind for kind in KINDS if kind.clean in commands)


def table() -> str:
    """Return the registry as lines of text: name, what it is, what removes it."""
    return "".join(
        f"{kind.name:10} {kind.what}\n"
        f"{'':10} removed by: {kind.removed_by or 'nothing'}"
        f"{'' if kind.remade else '; not made again'}\n"
        for kind in KINDS
    )
