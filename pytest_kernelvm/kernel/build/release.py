"""What a kernel calls itself, and which part of the name comes from where."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pytest_kernelvm.errors import BuildFailed, Evidence


def release_parts(
    tree: Path, version: str, config: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """Return the parts of a release with their places, as scripts/setlocalversion joins them.

    LOCALVERSION_AUTO adds nothing here: builds do not see the repository that the source is in.

    Args:
        tree: The source.
        version: The source's.
        config: Values by symbol.

    Returns:
        Text of each part, and where it comes from, in words.
    """
    parts = [(version, "the source's Makefile")]
    for path in sorted(tree.glob("localversion*")):
        if path.is_file() and not path.name.endswith("~"):
            parts.append(("".join(path.read_text().split()), f"the source's file {path.name}"))
    local = config.get("LOCALVERSION", "").strip('"')
    if local:
        parts.append((local, "CONFIG_LOCALVERSION"))
    return tuple(parts)


def check_release(
    expected_release: str,
    release: str,
    parts: tuple[tuple[str, str], ...],
    *,
    label: str,
    where: str,
) -> None:
    """Refuse a kernel whose release is not the one that its vm-config demands.

    Args:
        expected_release: As in the vm-config; empty for any.
        release: The kernel's.
        parts: See `release_parts`.
        label: Name of the cell.
        where: File of the vm-config.

    Raises:
        BuildFailed: They differ; the error has the parts.
    """
    if not expected_release or expected_release == release:
        return
    known = "".join(text for text, _place in parts)
    lines = [f"{text:20} {place}" for text, place in parts]
    if parts and known != release:
        lines.append(f"{release.removeprefix(known):20} LOCALVERSION, or a file of the build")
    raise BuildFailed(
        f"{label}: the kernel calls itself {release}, not {expected_release}",
        Evidence(
            expected=f"release {expected_release}, as the vm-config says",
            seen=release,
            excerpt="\n".join(lines),
            where=(where,),
            next_step="set LOCALVERSION in `symbols`, or correct `release`",
        ),
    )
