"""Finds the source of a version: a package that is installed here, or kernel.org's tarball."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

from pytest_kernelvm.config.sources import Source
from pytest_kernelvm.config.versions import begins_with, series_of, upstream_of
from pytest_kernelvm.errors import BadInput, Evidence, ToolMissing
from pytest_kernelvm.process import run
from pytest_kernelvm.store.kinds import RESOLVED_NAMES
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.store.writing import write_whole

KERNEL_ORG = "https://cdn.kernel.org/pub/linux/kernel"
# A mirror with the same layout below it.
MIRROR_VARIABLE = "KERNELVM_KERNEL_ORG"
ANSWER_S = 30.0
DEBIAN_SOURCES = Path("/usr/src")


def resolve(store: Store, source: Source) -> Source:
    """Return the source that a version stands for, and report it as progress.

    BadInput is raised if kernel.org has no such version, ToolMissing if no package is installed
    and kernel.org can't be reached.

    Args:
        store: Remembers the addresses and sums of kernel.org's tarballs.
        source: Of the kind `version`. 6.12 is any 6.12.x of an installed Debian package, or else
            kernel.org's release 6.12 itself.

    Returns:
        A source of the kind `debian` or `tarball`.
    """
    package = _installed_package(source.value)
    if package:
        name, version = package
        store.progress.say(f"version {source.value}: the Debian package {name} ({version})")
        return replace(source, kind="debian", value=name)
    url, sha256 = _tarball(store, source)
    store.progress.say(f"version {source.value}: {url}")
    return replace(source, kind="tarball", value=url, sha256=sha256)


def _installed_package(wanted: str) -> tuple[str, str] | None:
    for tarball in sorted(DEBIAN_SOURCES.glob("linux-source-*.tar.*")):
        name = tarball.name.partition(".tar.")[0]
        argv = ["dpkg-query", "--show", "--showformat=${Version}", name]
        with contextlib.suppress(ToolMissing):
            version = run(argv, timeout_s=30, check=False).stdout.strip()
            if begins_with(upstream_of(version), wanted):
                return name, version
    return None


def _tarball(store: Store, source: Source) -> tuple[str, str]:
    """Return address and sha256 of a version; a release never changes, so the store keeps them."""
    base = os.environ.get(MIRROR_VARIABLE, KERNEL_ORG).rstrip("/")
    noted = store.place(RESOLVED_NAMES) / f"{source.value}.json"
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(noted.read_bytes())
        return f"{base}/{known['path']}", str(known["sha256"])
    name = f"linux-{source.value}.tar.xz"
    directory = f"v{source.value.partition('.')[0]}.x"
    sums = _sha256sums(f"{base}/{directory}/sha256sums.asc", source)
    found = re.search(rf"^([0-9a-f]{{64}})  {re.escape(name)}$", sums, re.MULTILINE)
    if not found:
        have = re.findall(
            rf"  linux-({re.escape(series_of(source.value))}[0-9.]*)\.tar\.xz$", sums, re.M
        )
        raise BadInput(
            f"kernel.org has no version {source.value}",
            Evidence(
                where=(source.where, f"{base}/{directory}"),
                seen=f"there are {', '.join(have[-5:])}" if have else "",
            ),
        )
    known = {"path": f"{directory}/{name}", "sha256": found[1]}
    with store.disk_errors():
        write_whole(noted, json.dumps(known).encode())
    return f"{base}/{directory}/{name}", found[1]


def _sha256sums(url: str, source: Source) -> str:
    try:
        with contextlib.closing(urllib.request.urlopen(url, timeout=ANSWER_S)) as answer:
            text: bytes = answer.read()
            return text.decode(errors="replace")
    except urllib.error.HTTPError as error:
        raise BadInput(
            f"kernel.org has no list of versions like {source.value}",
            Evidence(where=(source.where, url), seen=f"{error.code} {error.reason}"),
        ) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ToolMissing(
            f"version {source.value} is not installed, and kernel.org can't be reached",
            Evidence(
                seen=str(getattr(error, "reason", error)),
                where=(source.where, url),
                next_step=f"apt-get install linux-source-{series_of(source.value)}, "
                f"or name a mirror with {MIRROR_VARIABLE}",
            ),
        ) from None
