"""Sources of kernels, as vm-configs and the command line name them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pytest_kernelvm.config.context import CellContext
from pytest_kernelvm.config.files import existing_file
from pytest_kernelvm.config.typed_yaml.expected import PlacedText, placed
from pytest_kernelvm.config.typed_yaml.rows import Record, key, rows_of, yaml_mapping
from pytest_kernelvm.config.versions import VERSION_PATTERN
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.foreign.json_fields import SHA256


@yaml_mapping
class SourceKeys:
    """The keys of `source:`: one for each kind of source, and what belongs to that kind."""

    tree: PlacedText | None = key(
        placed(
            "A working tree, relative to this file; it is not written into.",
            pattern=r".+",
            shape="a path",
        ),
        default=None,
    )
    git: PlacedText | None = key(
        placed("A git repository: path or URL.", pattern=r".+", shape="a path or URL"),
        default=None,
    )
    ref: PlacedText | None = key(
        placed(
            "Commit, tag or branch.",
            pattern=r"(?!-)[^\s:^~?*\[\\]+",
            shape="a commit, a tag or a branch",
        ),
        default=None,
        default_text="HEAD",
        beside="git",
    )
    tarball: PlacedText | None = key(
        placed(
            "A kernel tarball: a path relative to this file, or a URL with `sha256`.",
            pattern=r".+",
            shape="a path or URL",
        ),
        default=None,
    )
    sha256: PlacedText | None = key(
        placed(
            "The tarball's sha256, checked before it is unpacked.",
            pattern=SHA256,
            shape="64 hexadecimal digits in lower case",
        ),
        default=None,
        beside="tarball",
    )
    debian: PlacedText | None = key(
        placed(
            "A Debian source package, such as linux-source-{version}.",
            pattern=r"linux-source-[a-z0-9.{}+-]+",
            shape="a package such as linux-source-6.12",
        ),
        default=None,
    )
    suite: PlacedText | None = key(
        placed(
            "The Debian suite to fetch the package from.",
            pattern=r"[a-z][a-z0-9-]*",
            shape="a suite such as bookworm-backports",
        ),
        default=None,
        default_text="none, the package is installed here",
        beside="debian",
    )
    version: PlacedText | None = key(
        placed(
            "A version: an installed Debian package of it, else kernel.org's tarball.",
            pattern=rf"{VERSION_PATTERN}|\{{version\}}",
            shape="a version such as 6.12.30",
        ),
        default=None,
    )
    prebuilt: PlacedText | None = key(
        placed(
            "A finished kernel: a directory, .deb or .rpm files joined by commas, "
            "host:/boot (host:RELEASE for one of several), or debian:PACKAGE[:ARCH][@SUITE].",
            pattern=r".+",
            shape="a path, host:/boot, or debian:PACKAGE",
        ),
        default=None,
    )


SOURCE_KINDS = tuple(row.key for row in rows_of(SourceKeys).values() if not row.beside)
# The key that belongs to a kind; an option of the command line has its value behind an @.
_BESIDE = {row.beside: row.key for row in rows_of(SourceKeys).values() if row.beside}

SOURCE = Record(
    cls=SourceKeys,
    doc="Where the kernel comes from; {version} stands for the version.",
    one_of=SOURCE_KINDS,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Where a kernel comes from.

    Attributes:
        kind: One of SOURCE_KINDS.
        value: A path, a URL, the name of a package, or a version. A path is absolute or relative
            to the current directory.
        where: The place in the vm-config, or the option that names the source.
        ref: Of a `git` source: commit, tag or branch; empty for HEAD.
        sha256: Of a `tarball`, in hexadecimal; empty for a file of this machine without it.
        suite: Of a `debian` source; empty if the package is installed here.
    """

    kind: str
    value: str
    where: str
    ref: str = ""
    sha256: str = ""
    suite: str = ""

    @property
    def is_url(self) -> bool:
        """Whether it is fetched from a network."""
        return "://" in self.value

    @property
    def paths(self) -> tuple[str, ...]:
        """The files and directories of this machine that it names."""
        named = self.kind in ("tree", "git", "tarball", "prebuilt") and not self.is_url
        if not named or self.value.startswith(("debian:", "host:")):
            return ()
        return tuple(self.value.split(",")) if self.kind == "prebuilt" else (self.value,)


def source_as_written(keys: SourceKeys, context: CellContext) -> Source:
    """Return the source that a vm-config names.

    BadInput is raised if a tarball does not exist, or comes from a network and has no sha256.

    Args:
        keys: What is written.
        context: Says in which directory relative paths begin, and what `{version}` stands for.
    """
    names: dict[str, PlacedText] = {
        name: text for name in rows_of(SourceKeys) if (text := getattr(keys, name))
    }
    (kind,) = (name for name in names if name in SOURCE_KINDS)
    beside = _BESIDE.get(kind)
    more = {beside: context.with_version(names[beside].text)} if beside in names else {}
    source = Source(
        kind=kind,
        value=context.with_version(names[kind].text),
        where=str(names[kind].place),
        **more,
    )
    if kind == "tarball" and not source.is_url:
        return replace(source, value=str(existing_file(names[kind], context, "the tarball")))
    return _checked(_below(context.directory, source))


def default_source(context: CellContext) -> Source:
    """Return the source for a vm-config that names none: Debian's package of the version.

    Args:
        context: Has the kernel's version.
    """
    return Source(kind="debian", value=f"linux-source-{context.version}", where=str(context.file))


def _below(base: Path, source: Source) -> Source:
    """Return a source whose relative paths begin in a directory."""
    value = source.value
    if source.is_url or source.kind in ("debian", "version"):
        return source
    if source.kind == "prebuilt":
        if value.startswith(("debian:", "host:")):
            return source
        paths = [str(base / Path(path).expanduser()) for path in value.split(",")]
        return replace(source, value=",".join(paths))
    return replace(source, value=str(base / Path(value).expanduser()))


def _checked(source: Source) -> Source:
    if source.kind == "tarball" and source.is_url and not source.sha256:
        raise BadInput(
            f"the tarball {source.value} comes from a network and has no sha256",
            Evidence(where=(source.where,), next_step="add `sha256:` to the source"),
        )
    return source


def source_named(text: str) -> Source:
    """Return the source that an option of the command line names.

    Args:
        text: KIND:VALUE with the kinds of a vm-config, and what belongs to a kind behind an @:
            `git:REPOSITORY@REF`, `tarball:URL@SHA256`, `debian:PACKAGE@SUITE`. Relative paths
            begin in the current directory.

    Raises:
        BadInput: The text names no source, the tarball does not exist, or it comes from a network
            and has no sha256.
    """
    kind, _, value = text.partition(":")
    if not value or kind not in SOURCE_KINDS:
        raise BadInput(
            f"{text!r} names no source",
            Evidence(expected=", ".join(f"{kind}:…" for kind in SOURCE_KINDS)),
        )
    value, more = _split_at(kind, value)
    is_url = "://" in value
    if kind == "tarball" and not more and not is_url and not Path(value).expanduser().is_file():
        raise BadInput(f"the tarball {value} does not exist")
    return _checked(
        _below(Path(), Source(kind=kind, value=value, where=f"--source {text}", **more))
    )


def _split_at(kind: str, value: str) -> tuple[str, dict[str, str]]:
    """Split at an @: return the text before it, and the text behind it under its key."""
    beside = _BESIDE.get(kind)
    before, _, behind = value.rpartition("@")
    # The @ of ssh://user@host is part of the address.
    address = before.partition("://")[2] if "://" in before else "/"
    if beside and before and "/" in address:
        return before, {beside: behind}
    return value, {}
