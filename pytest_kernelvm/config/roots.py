"""Root file systems that guests boot into, as vm-configs and tests describe them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.config.typed_yaml import ByShape, Located, MapOf, Number, Placed, Record, Text
from pytest_kernelvm.errors import BadInput, Evidence

KINDS = ("jffs2", "squashfs", "ext4")
# How the kernel learns of the memory in which it is.
BY = ("cmdline", "device-tree")
# What it takes to mount each, besides what is flash in memory.
MODULES = ("phram", "mtdblock")

PSEUDOFILE_KINDS = ("directory", "link", "file", "character", "block", "fifo")
_SHORT = ("directory", "fifo")
_PERMISSIONS = {"directory": 0o755, "link": 0o777}
_WITH = {
    "link": ("to",),
    "file": ("content",),
    "character": ("major", "minor"),
    "block": ("major", "minor"),
}
ERASE_BYTES = 64 << 10
# A page; phram gives it to what a device tree's node describes (drivers/mtd/devices/phram.c).
LEAST_ERASE_BYTES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Pseudofile:
    """What `activate` makes in the root.

    path: absolute. kind: one of PSEUDOFILE_KINDS. permissions: None for what is usual.
    owner, group: numbers. content: of a file. to: what a link says. major, minor: of a device.
    Raises BadInput for what cannot be.
    """

    path: str
    kind: str
    permissions: int | None = None
    owner: int = 0
    group: int = 0
    content: bytes = b""
    to: str = ""
    major: int = 0
    minor: int = 0
    where: str = ""

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
            raise BadInput(f"{self.path} is a link to nothing", _at(self.where))

    @property
    def mode(self) -> int:
        """Its permission bits."""
        if self.permissions is not None:
            return self.permissions
        return _PERMISSIONS.get(self.kind, 0o644)

    @property
    def above(self) -> tuple[str, ...]:
        """The directories that it is in, the root's own left out."""
        parts = self.path.split("/")
        return tuple("/".join(parts[:depth]) for depth in range(2, len(parts)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Root:
    """A root file system of which the image keeps the store; `activate` makes the rest.

    kind: one of KINDS. by: one of BY, empty for what suits kind and architecture.
    store: the directory that is kept. contents: a directory here whose contents it gets, None for
    the guest's own only.
    erase_bytes: of a flash block; with a device tree's node it is a page, whatever is said here.
    free_bytes: what is left to be written into. options: for rootflags=.
    pseudofiles: in any order; directories above them need not be named.
    Raises BadInput for what cannot be.
    """

    kind: str
    by: str = ""
    store: str = "/nix/store"
    contents: Path | None = None
    erase_bytes: int = ERASE_BYTES
    free_bytes: int = 1 << 20
    options: str = ""
    pseudofiles: tuple[Pseudofile, ...] = ()
    where: str = ""

    def __post_init__(self) -> None:
        for value, name, allowed in ((self.kind, "kind", KINDS), (self.by or BY[0], "by", BY)):
            if value not in allowed:
                raise BadInput(
                    f"{name}: {value!r} is none of a root file system",
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
        """The modules that it takes to mount it."""
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


_PATH = Text(doc="An absolute path.", pattern=r"/[^\n\r]*", shape="an absolute path")
_NUMBER = Number(doc="An owner's or group's number, default 0.", least=0, most=65534, whole=True)

ROOT = Record(
    doc="A root file system in memory beside the kernel's, into which a guest boots.",
    required=("kind",),
    keys={
        "kind": Placed(text=Text(doc="Which file system.", allowed=KINDS)),
        "by": Text(
            doc="How the kernel learns of it: phram.phram= on the command line, or a node in the "
            "device tree's /reserved-memory; default what suits kind and architecture.",
            allowed=BY,
        ),
        "store": Text(
            doc="The directory that the image keeps, default /nix/store.",
            pattern=_PATH.pattern,
            shape=_PATH.shape,
        ),
        "contents": Placed(
            text=Text(
                doc="A directory, relative to this file, whose contents are put into the store.",
                pattern=r".+",
                shape="a path",
            )
        ),
        "erase_kib": Number(
            doc="A flash block in KiB, default 64.", least=4, most=1 << 20, whole=True
        ),
        "free_kib": Number(
            doc="What is left to be written into in KiB, default 1024.",
            least=0,
            most=1 << 20,
            whole=True,
        ),
        "options": Text(doc="For rootflags=.", pattern=r"[^\s]*", shape="one word"),
        "pseudofiles": MapOf(
            doc="What is made in the root at each boot, by path.",
            key=_PATH,
            value=ByShape(
                scalar=Placed(text=Text(doc="Of the usual mode.", allowed=_SHORT)),
                mapping=Record(
                    doc="A pseudofile.",
                    required=("kind",),
                    keys={
                        "kind": Placed(text=Text(doc="What it is.", allowed=PSEUDOFILE_KINDS)),
                        "mode": Text(
                            doc="Permission bits, in octal.",
                            pattern=r"[0-7]{3,4}",
                            shape="octal digits such as 0755",
                        ),
                        "owner": _NUMBER,
                        "group": _NUMBER,
                        "to": Text(doc="What a link says.", pattern=r"[^\n\r]+", shape="one line"),
                        "content": Text(doc="Of a file.", pattern=r"(?s:.*)", shape="a text"),
                        "major": Number(doc="Of a device.", least=0, most=4095, whole=True),
                        "minor": Number(
                            doc="Of a device.", least=0, most=(1 << 20) - 1, whole=True
                        ),
                    },
                ),
            ),
        ),
    },
)


def root_of(raw: dict[str, Any] | None, base: Path) -> Root | None:
    """Return what a vm-config's `root:` describes, None without one.

    base: the vm-config's directory. Raises BadInput for what cannot be.
    """
    if raw is None:
        return None
    kind: Located = raw["kind"]
    where = str(kind.place)
    pseudofiles = tuple(
        _pseudofile(path, given, where) for path, given in raw.get("pseudofiles", {}).items()
    )
    return Root(
        kind=kind.text,
        by=raw.get("by", ""),
        store=raw.get("store", "/nix/store"),
        contents=base / raw["contents"].text if "contents" in raw else None,
        erase_bytes=int(raw.get("erase_kib", ERASE_BYTES >> 10)) << 10,
        free_bytes=int(raw.get("free_kib", 1024)) << 10,
        options=raw.get("options", ""),
        pseudofiles=pseudofiles,
        where=where,
    )


def _pseudofile(path: str, given: Located | dict[str, Any], where: str) -> Pseudofile:
    raw: dict[str, Any] = {"kind": given} if isinstance(given, Located) else dict(given)
    located: Located = raw.pop("kind")
    where, kind = str(located.place), located.text
    wanted = _WITH.get(kind, ())
    for key in ("to", "content", "major", "minor"):
        if (key in raw) != (key in wanted):
            fault = "says more than it is" if key in raw else "says less than it must"
            raise BadInput(
                f"{path}: a {kind} {fault}: {key}",
                Evidence(
                    expected=", ".join(wanted) or "nothing but mode, owner and group",
                    where=(where,),
                ),
            )
    mode = raw.pop("mode", None)
    content = raw.pop("content", "").encode()
    return Pseudofile(
        path=path,
        kind=kind,
        permissions=None if mode is None else int(mode, 8),
        content=content,
        where=where,
        **raw,
    )
