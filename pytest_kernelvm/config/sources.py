"""Sources of a kernel as vm-configs and the command line name them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.config.files import existing_file
from pytest_kernelvm.config.model import (
    PREBUILT_MEMORY_MIB,
    SOURCE_KINDS,
    CellConfig,
    KernelConfig,
    Machine,
    ModprobeConfig,
    Source,
    Timeouts,
)
from pytest_kernelvm.config.services import services_of
from pytest_kernelvm.config.typed_yaml import Located
from pytest_kernelvm.errors import BadInput, Evidence


def read_source(base: Path, given: dict[str, Located], file: Path, version: str) -> Source:
    """Return a kernel's source, its paths relative to the vm-config. Raises BadInput."""
    if not given:
        return Source(kind="debian", value=f"linux-source-{version}", where=str(file))
    texts = {key: located.text.replace("{version}", version) for key, located in given.items()}
    (kind,) = texts.keys() & set(SOURCE_KINDS)
    source = Source(
        kind=kind,
        value=texts[kind],
        where=str(given[kind].place),
        ref=texts.get("ref", ""),
        sha256=texts.get("sha256", ""),
        suite=texts.get("suite", ""),
    )
    if kind == "tarball" and not source.is_url:
        return replace(source, value=str(existing_file(base, given[kind], "the tarball", version)))
    return _checked(_below(base, source))


def _below(base: Path, source: Source) -> Source:
    """Take a path in a source as relative to a directory."""
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
    """Return the source that an option names.

    text: KIND:VALUE as in a vm-config; `git:REPOSITORY@REF`, `tarball:URL@SHA256`,
    `debian:PACKAGE@SUITE`. Paths are relative to the current directory.
    Raises BadInput if it is none of these.
    """
    kind, colon, value = text.partition(":")
    if not colon or not value or kind not in SOURCE_KINDS:
        raise BadInput(
            f"{text!r} names no source",
            Evidence(expected=", ".join(f"{kind}:…" for kind in SOURCE_KINDS)),
        )
    along = {"git": "ref", "tarball": "sha256", "debian": "suite"}.get(kind)
    more = {}
    before, at, behind = value.rpartition("@")
    # The @ of ssh://user@host is not ours.
    address = before.partition("://")[2] if "://" in before else "/"
    if along and at and before and "/" in address:
        value, more = before, {along: behind}
    elif kind == "tarball" and not Path(value).expanduser().is_file() and "://" not in value:
        raise BadInput(f"the tarball {value} does not exist")
    return _checked(
        _below(Path(), Source(kind=kind, value=value, where=f"--source {text}", **more))
    )


def prebuilt_cell(source: Source, arch: Arch) -> CellConfig:
    """Return the cell of a prebuilt kernel that no vm-config describes.

    It has as much memory as a distribution's kernel with its modules is comfortable in.
    """
    return CellConfig(
        id=f"prebuilt-{arch.name}",
        name="prebuilt",
        file=Path(),
        arch=arch,
        kernel=KernelConfig(
            version="",
            source=source,
            base="",
            fragments=(),
            symbols=(),
            patches=(),
            image=arch.default_image,
            release="",
        ),
        modules=(),
        allow_missing=(),
        allow_empty=True,
        modprobe=ModprobeConfig(options=(), blacklist=()),
        services=services_of({}, ""),
        cmdline="",
        builtin_cmdline="",
        cookie="",
        userland="none",
        machine=Machine(
            memory_mib=min(PREBUILT_MEMORY_MIB, arch.max_memory_mib),
            cpu=arch.cpu,
            fast_boot=True,
        ),
        timeouts=Timeouts(boot_s=120.0, command_s=60.0, build_s=7200.0),
    )


def with_source(cells: Iterable[CellConfig], source: Source) -> tuple[CellConfig, ...]:
    """Return cells whose kernels come from another source."""
    return tuple(replace(cell, kernel=replace(cell.kernel, source=source)) for cell in cells)
