"""Root file systems that guests boot into, as vm-configs and tests describe them."""

from __future__ import annotations

import re
from pathlib import Path

from pytest_kernelvm.config.typed_yaml.expected import Context, MapOf, Text, WholeNumber, placed
from pytest_kernelvm.config.typed_yaml.rows import (
    Record,
    Written,
    given,
    key,
    place_of,
    yaml_mapping,
)
from pytest_kernelvm.errors import BadInput, Evidence

KINDS = ("jffs2", "squashfs", "ext4")
# How the kernel learns where the root is in memory.
BY = ("cmdline", "device-tree")
# Modules for flash in memory; to mount a root takes its file system besides.
MODULES = ("phram", "mtdblock")

PSEUDOFILE_KINDS = ("directory", "link", "file", "character", "block", "fifo")
# Kinds for which the kind alone says all.
_BARE_KINDS = ("directory", "fifo")
_PERMISSIONS = {"directory": 0o755, "link": 0o777}
_WITH = {
    "link": ("to",),
    "file": ("content",),
    "character": ("major", "minor"),
    "block": ("major", "minor"),
}
ERASE_BYTES = 64 << 10
FREE_BYTES = 1 << 20
# A page; phram gives it to what a device tree's node describes (drivers/mtd/devices/phram.c).
LEAST_ERASE_BYTES = 4096


_PATH = Text(doc="An absolute path.", pattern=r"/[^\n\r]*", shape="an absolute path")


def _owner(whose: str) -> WholeNumber:
    return WholeNumber(doc=f"The {whose}'s number.", least=0, most=65534)


def _device_number(which: str, most: int) -> WholeNumber:
    doc = f"The {which} number of a device, which must have this key."
    return WholeNumber(doc=doc, least=0, most=most)


@yaml_mapping
class Pseudofile:
    """A file that the guest makes in its root at each boot, with the program `activate`.

    Attributes:
        path: The absolute path.
        kind: One of PSEUDOFILE_KINDS.
        permissions: The permission bits, None for the usual ones of the kind.
        owner: The owner's number.
        group: The group's number.
        content: What is in a file.
        to: Where a link leads.
        major: A device's major number.
        minor: A device's minor number.
        where: The place in the vm-config, empty for none.

    Raises:
        BadInput: The path is not absolute, too long or not normal, there is no such kind, or a
            link leads nowhere.
    """

    path: str = given(lambda _written, context: context.name)
    kind: str = key(
        placed("What it is.", allowed=PSEUDOFILE_KINDS), convert=lambda kind, _context: kind.text
    )
    permissions: int | None = key(
        Text(
            doc="Permission bits, in octal.",
            pattern=r"[0-7]{3,4}",
            shape="octal digits such as 0755",
        ),
        name="mode",
        convert=lambda digits, _context: int(digits, 8),
        default=None,
        default_text="0755 for a directory, 0777 for a link, 0644 for others",
    )
    owner: int = key(_owner("owner"), default=0)
    group: int = key(_owner("group"), default=0)
    content: bytes = key(
        Text(
            doc="The contents of a file, which must have this key; other kinds have none.",
            pattern=r"(?s:.*)",
            shape="a text",
        ),
        convert=lambda text, _context: text.encode(),
        default=b"",
    )
    to: str = key(
        Text(
            doc="Where a link leads, which must have this key; other kinds have none.",
            pattern=r"[^\n\r]+",
            shape="one line",
        ),
        default="",
    )
    major: int = key(_device_number("major", 4095), default=0, default_text="")
    minor: int = key(_device_number("minor", (1 << 20) - 1), default=0, default_text="")
    where: str = place_of("kind", default="")

    def __post_init__(self) -> None:
        if fault := _fault_of_path(self.path):
            raise BadInput(f"{self.path!r} is {fault}", _at(self.where))
        if self.kind not in PSEUDOFILE_KINDS:
            raise BadInput(
                f"{self.path}: {self.kind!r} is no kind of file",
                Evidence(
                    expected=f"one of {', '.join(PSEUDOFILE_KINDS)}", where=_at(self.where).where
                ),
            )
        if self.kind == "link" and not self.to:
            raise BadInput(
                f"{self.path}: a link lacks a required key: to",
                Evidence(expected="to", where=_at(self.where).where),
            )

    @property
    def mode(self) -> int:
        """The permission bits."""
        if self.permissions is not None:
            return self.permissions
        return _PERMISSIONS.get(self.kind, 0o644)

    @property
    def above(self) -> tuple[str, ...]:
        """The directories that it is in, without the root itself."""
        parts = self.path.split("/")
        return tuple("/".join(parts[:depth]) for depth in range(2, len(parts)))


def _check_keys(pseudofile: Pseudofile, written: Written, context: Context) -> None:
    """Refuse keys that do not belong to the kind of file, and miss those that do."""
    kind = pseudofile.kind
    wanted = _WITH.get(kind, ())
    for name in dict.fromkeys(name for names in _WITH.values() for name in names):
        if (name in written) != (name in wanted):
            fault = "has a key that it does not take" if name in written else "lacks a required key"
            raise BadInput(
                f"{context.name}: a {kind} {fault}: {name}",
                Evidence(
                    expected=", ".join(wanted) or "nothing but mode, owner and group",
                    where=(pseudofile.where,),
                ),
            )


@yaml_mapping
class Root:
    """A root file system in memory, whose image has one directory; `activate` makes the rest.

    Attributes:
        kind: The file system, one of KINDS.
        by: How the kernel learns of it, one of BY; empty for what suits kind and architecture.
        store: The directory that is in the image, an absolute path.
        contents: A directory of this machine whose contents are copied into `store`, None for
            none: the guest's own programs are always there.
        erase_bytes: The size of a flash block. Where the kernel learns of the root from a device
            tree, flash blocks are pages (drivers/mtd/devices/phram.c).
        free_bytes: Room for writing in the image.
        options: The value of rootflags=, empty for none.
        pseudofiles: What `activate` makes, in any order; directories above them are made too.
        where: The place in the vm-config, empty for none.

    Raises:
        BadInput: The attributes contradict each other, or name what there is not.
    """

    kind: str = key(
        placed("Which file system.", allowed=KINDS), convert=lambda kind, _context: kind.text
    )
    by: str = key(
        Text(
            doc="How the kernel learns of it: phram.phram= on the command line, or a node in the "
            "device tree's /reserved-memory.",
            allowed=BY,
        ),
        default="",
        default_text="what suits kind and architecture",
    )
    store: str = key(
        Text(
            doc="The directory of the guest whose contents the image keeps.",
            pattern=_PATH.pattern,
            shape=_PATH.shape,
        ),
        default="/nix/store",
    )
    contents: Path | None = key(
        Text(
            doc="A directory, relative to this file, whose contents are put into `store`.",
            pattern=r".+",
            shape="a path",
        ),
        convert=lambda path, context: context.file.parent / path,
        default=None,
    )
    erase_bytes: int = key(
        WholeNumber(doc="The size of an erase block of the flash, in KiB.", least=4, most=1 << 20),
        name="erase_kib",
        convert=lambda kib, _context: kib << 10,
        default=ERASE_BYTES,
        default_text=f"{ERASE_BYTES >> 10}",
    )
    free_bytes: int = key(
        WholeNumber(
            doc="Free space in the image for the guest to write into, in KiB.",
            least=0,
            most=1 << 20,
        ),
        name="free_kib",
        convert=lambda kib, _context: kib << 10,
        default=FREE_BYTES,
        default_text=f"{FREE_BYTES >> 10}",
    )
    options: str = key(
        Text(doc="Mount options, passed as rootflags=.", pattern=r"[^\s]*", shape="one word"),
        default="",
    )
    pseudofiles: tuple[Pseudofile, ...] = key(
        MapOf(
            doc="What is made in the root at each boot, by path.",
            key=_PATH,
            placeholder="PATH",
            item=Record(
                cls=Pseudofile,
                doc="A pseudofile.",
                bare="kind",
                bare_as=placed("Of the usual mode.", allowed=_BARE_KINDS),
                check=_check_keys,
            ),
        ),
        convert=lambda found, _context: tuple(found.values()),
        default=(),
    )
    where: str = place_of("kind", default="")

    def __post_init__(self) -> None:
        for value, name, allowed in ((self.kind, "kind", KINDS), (self.by or BY[0], "by", BY)):
            if value not in allowed:
                raise BadInput(
                    f"{name}: {value!r} is not allowed for a root file system",
                    Evidence(expected=f"one of {', '.join(allowed)}", where=_at(self.where).where),
                )
        if fault := _fault_of_path(self.store):
            raise BadInput(f"the store {self.store!r} is {fault}", _at(self.where))
        if self.contents is not None and not self.contents.is_dir():
            raise BadInput(f"{self.contents} is no directory", _at(self.where))
        if self.erase_bytes % LEAST_ERASE_BYTES or self.erase_bytes <= 0:
            raise BadInput(
                f"erase blocks of {self.erase_bytes} bytes",
                Evidence(
                    expected=f"whole pages of {LEAST_ERASE_BYTES} bytes",
                    where=_at(self.where).where,
                ),
            )
        self._refuse_below_no_directory()

    def _refuse_below_no_directory(self) -> None:
        kinds: dict[str, str] = {}
        for each in self.pseudofiles:
            if each.path in kinds:
                raise BadInput(f"{each.path} is in the list twice", _at(each.where))
            kinds[each.path] = each.kind
        for each in self.pseudofiles:
            for above in each.above:
                if kinds.get(above, "directory") != "directory":
                    raise BadInput(
                        f"{each.path} is below {above}, which is no directory but a {kinds[above]}",
                        _at(each.where),
                    )
            self._refuse_in_the_way(each)

    def _refuse_in_the_way(self, each: Pseudofile) -> None:
        for mounted in (self.store, "/persist"):
            inside = f"{each.path}/".startswith(f"{mounted}/")
            above = mounted.startswith(f"{each.path}/") and each.kind != "directory"
            if inside or above:
                raise BadInput(
                    f"the {each.kind} {each.path} is in the way of what is mounted at {mounted}",
                    _at(each.where),
                )

    @property
    def modules(self) -> tuple[str, ...]:
        """The modules that the kernel needs to mount it."""
        return (*MODULES, self.kind)


def _fault_of_path(path: str) -> str:
    if not path.startswith("/") or path == "/":
        return "no absolute path"
    if re.search(r"[\n\0]", path) or len(path.encode()) > 255:
        return "a path with a newline or of more than 255 bytes"
    if any(part in ("", ".", "..") for part in path[1:].split("/")):
        return "a path with an empty part, . or .."
    return ""


def _at(where: str) -> Evidence:
    return Evidence(where=(where,) if where else ())


ROOT = Record(
    cls=Root, doc="A root file system in memory beside the kernel's, into which a guest boots."
)
