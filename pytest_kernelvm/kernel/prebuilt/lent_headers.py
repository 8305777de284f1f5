"""Headers for the agent of a finished kernel, which has none that fit nolibc.

It gets those of another kernel of the same architecture. System calls and their numbers never
change (Documentation/process/stable-api-nonsense.rst). An older kernel is preferred, so that no
program uses a system call that this one lacks. Which kernel it was is shown and recorded.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.config.versions import leading_numbers
from pytest_kernelvm.errors import Evidence, ToolMissing
from pytest_kernelvm.kernel.source.headers import headers_of_source
from pytest_kernelvm.kernel.source.source import DEBIAN_SOURCES
from pytest_kernelvm.store.kernel_metadata import stored_metadata
from pytest_kernelvm.store.kinds import KERNELS
from pytest_kernelvm.store.store import Store


def lend_headers(store: Store, arch: Arch, release: str, entry: Path) -> str:
    """Copy the headers of another kernel of an architecture into an entry.

    Raises ToolMissing if there is no other kernel, and no source is installed.

    Args:
        store: Where other kernels are.
        arch: The architecture.
        release: Of the kernel that needs them.
        entry: Its entry.

    Returns:
        The release, or the source package, that they are from.
    """
    mine = leading_numbers(release)
    lenders = []
    for path in sorted(store.place(KERNELS).glob("*/headers")):
        note = stored_metadata(store, path.parent.name)
        if note and note.arch == arch:
            theirs = leading_numbers(note.release)
            older = theirs <= mine
            # Of newer kernels the oldest is the nearest: their numbers are negated.
            rank = theirs if older else tuple(-number for number in theirs)
            lenders.append(((older, rank), path.parent, note))
    if lenders:
        _rank, lender, note = max(lenders, key=lambda each: each[0])
        for name in ("headers", "nolibc"):
            shutil.copytree(lender / name, entry / name)
        store.progress.say(f"the agent is compiled with the headers of {note.headers_of}")
        return note.headers_of
    return _headers_of_some_source(store, arch, mine, entry)


def _headers_of_some_source(store: Store, arch: Arch, mine: tuple[int, ...], entry: Path) -> str:
    installed = sorted(
        DEBIAN_SOURCES.glob("linux-source-*.tar.*"),
        key=lambda path: (leading_numbers(path.name[13:]) <= mine, leading_numbers(path.name[13:])),
        reverse=True,
    )
    if not installed:
        raise ToolMissing(
            "there are no headers to compile the agent with",
            Evidence(
                expected=f"a stored kernel of {arch.name}, or an installed linux-source",
                next_step="apt-get install linux-source",
            ),
        )
    package = installed[0].name.partition(".tar.")[0]
    headers = headers_of_source(store, package, arch)
    for name in ("headers", "nolibc"):
        shutil.copytree(headers / name, entry / name)
    store.progress.say(f"the agent is compiled with the headers of {package}")
    return package
