"""Packages of any Debian suite and architecture, through an apt of our own; the host's stays as is.

apt checks the signatures of the suite and the hashes of its packages.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_kernelvm.config.patches import Patch
from pytest_kernelvm.errors import BadInput, BuildFailed, Evidence, ToolMissing
from pytest_kernelvm.fetch.patching import apply_patch
from pytest_kernelvm.fetch.tarball import unpack_tarball
from pytest_kernelvm.foreign.archive_rules import UnpackOptions
from pytest_kernelvm.foreign.unpacking import unpack_output
from pytest_kernelvm.process import TAIL_LINES, failure, find_program, run, tail
from pytest_kernelvm.store.digest import Digest, digest_of
from pytest_kernelvm.store.store import StagingDirectory, Store
from pytest_kernelvm.store.writing import raise_if_full, write_whole

KIND = "apt"
RESOLVED = "resolved"
PACKAGES = "packages"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
HOST_SOURCES = Path("/etc/apt")
MIRROR = "http://deb.debian.org/debian"
UPDATE_TIMEOUT_S = 600.0
DOWNLOAD_TIMEOUT_S = 3600.0
BUILD_TIMEOUT_S = 1800.0
# Whoever asks again within a day gets the same package.
RESOLVED_FOR_S = 86400.0
# Seconds between attempts while a mirror is being synchronised.
PAUSES_S = (10.0, 30.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One package of a suite. sha256: of its .deb."""

    name: str
    version: str
    arch: str
    suite: str
    sha256: str
    size_bytes: int
    depends: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.arch}, {self.suite})"


def find_package(store: Store, name: str, *, arch: str, suite: str, where: str = "") -> Package:
    """Return what a suite has under a name; asked at most once a day.

    arch: Debian's name of the architecture, empty for the host's.
    Raises BadInput if the suite or the package does not exist, ToolMissing if it can't be reached.
    """
    arch = arch or host_arch()
    noted = store.root / RESOLVED / f"{digest_of([name, arch, suite])}.json"
    known = _noted(noted)
    if known and time.time() - noted.stat().st_mtime < RESOLVED_FOR_S:
        return known
    apt = _Apt(store, arch, suite)
    with store.lock(f"{KIND}-{apt.directory.name}", f"the package lists of {suite} ({arch})"):
        try:
            apt.update(where)
        except ToolMissing as error:
            if not known:
                raise
            store.progress.say(f"{error.summary}; using {known}")
            return known
        package = apt.show(name, where)
    store.progress.say(f"found {package}")
    write_whole(noted, json.dumps(asdict(package)).encode())
    return package


def _noted(path: Path) -> Package | None:
    try:
        found = json.loads(path.read_bytes())
        return Package(**{**found, "depends": tuple(found["depends"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


def download(store: Store, package: Package) -> Path:
    """Return the .deb of a package, downloaded unless the store has it."""

    def make(work: StagingDirectory) -> dict[str, Any]:
        store.progress.say(f"downloading {package}, {package.size_bytes >> 20} MiB")
        apt = _Apt(store, package.arch, package.suite)
        with store.lock(f"{KIND}-{apt.directory.name}", f"the download of {package.name}"):
            apt.download(package, work)
        return {"package": str(package)}

    label = f"the download of {package}"
    entry = store.obtain(PACKAGES, Digest(package.sha256), make, label=label)
    return next(entry.glob("*.deb"))


def unpack_deb(deb: Path, root: Path) -> None:
    """Unpack a .deb into a directory, which may have other packages in it.

    Raises BadInput if it is damaged, or holds more than files, directories and safe links.
    """
    program = find_program("dpkg-deb", "apt-get install dpkg")
    way = UnpackOptions(what=str(deb), rooted=True, packed_bytes=deb.stat().st_size)
    unpack_output([program, "--fsys-tarfile", deb], root, way, timeout_s=DOWNLOAD_TIMEOUT_S)


def unpack_packages(
    store: Store, names: Sequence[str], *, arch: str, suite: str, directory: Path
) -> tuple[str, ...]:
    """Unpack packages of a suite into a new directory; return which they are, in words.

    They are downloaded unless the store has them. Raises as `find_package`.
    """
    directory.mkdir()
    packages = [find_package(store, name, arch=arch, suite=suite) for name in names]
    for package in packages:
        unpack_deb(download(store, package), directory)
    return tuple(str(package) for package in packages)


def fetch_source(store: Store, name: str, *, suite: str) -> tuple[Path, ...]:
    """Return the files of a source package: its .dsc and the archives that this names.

    They are fetched unless the store has some version of them.
    Raises BadInput if the suite does not exist, ToolMissing if it can't be reached.
    """

    def make(work: StagingDirectory) -> dict[str, Any]:
        # Source has no architecture; apt wants one all the same.
        apt = _Apt(store, host_arch(), suite, kind="deb-src")
        work.entry.mkdir(exist_ok=True)
        with store.lock(f"{KIND}-{apt.directory.name}", f"the source of {name}"):
            apt.update("")
            apt.fetch_source(name, work)
        return {"source": name, "files": sorted(path.name for path in work.entry.iterdir())}

    label = f"the source of Debian's {name}"
    entry = store.obtain(PACKAGES, digest_of(["source", name, suite]), make, label=label)
    return tuple(entry / file for file in store.describe(entry)["files"])


def unpack_source(files: Sequence[Path], directory: Path) -> None:
    """Unpack a source package and apply its patches.

    files: those of fetch_source, of a package in the format '3.0 (quilt)'.
    Raises BuildFailed if a patch does not apply.
    """
    directory.mkdir(parents=True)
    for part, strip in ((".orig.tar.", 1), (".debian.tar.", 0)):
        (archive,) = (file for file in files if part in file.name)
        unpack_tarball(archive, directory, UnpackOptions(what=str(archive), strip=strip))
    patches = directory / "debian/patches"
    series = patches / "series"
    for line in series.read_text().splitlines() if series.is_file() else ():
        name = line.partition("#")[0].strip()
        if name:
            patch = Patch(name=name, file=patches / name, where=str(series))
            apply_patch(directory, patch, directory.parent)


def make_source(
    label: str, argv: Sequence[str | Path], *, log: Path, env: Mapping[str, str]
) -> None:
    """Run make in an unpacked source package. label: what is made, in words.

    Raises BuildFailed with the end of the log.
    """
    done = run(argv, env=env, timeout_s=BUILD_TIMEOUT_S, check=False, log=log)
    if done.status != 0:
        evidence = failure(done, log)
        raise_if_full(evidence.excerpt)
        raise BuildFailed(f"{label}: make {evidence.seen}", evidence)


def host_arch() -> str:
    """Return Debian's name of the host's architecture."""
    find_program("dpkg", "this is not a Debian: name a package with its architecture, :arm64")
    return run(["dpkg", "--print-architecture"], timeout_s=30).stdout.strip()


def mirror() -> str:
    """Return the first Debian mirror that the host's apt uses, or deb.debian.org."""
    files = [HOST_SOURCES / "sources.list", *HOST_SOURCES.glob("sources.list.d/*")]
    for path in sorted(path for path in files if path.suffix in (".list", ".sources")):
        found = re.search(r"^[^#\n]*\b(https?://\S+/debian)/?(?=\s|$)", _text(path), re.MULTILINE)
        if found:
            return found[1]
    return MIRROR


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


class _Apt:
    """apt with lists, cache and status of its own, for one architecture of one suite."""

    def __init__(self, store: Store, arch: str, suite: str, kind: str = "deb") -> None:
        self.store = store
        self.arch = arch
        self.suite = suite
        self.kind = kind
        self.directory = store.root / KIND / f"{suite}-{arch}-{kind}"

    def _environment(self) -> dict[str, str]:
        find_program("apt-get", "this needs Debian's apt")
        if not KEYRING.is_file():
            raise ToolMissing(
                "Debian's keys are not here",
                Evidence(expected=str(KEYRING), next_step="apt-get install debian-archive-keyring"),
            )
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        (self.directory / "state/status").touch()
        sources = self.directory / "sources.list"
        lines = f"{self.kind} [signed-by={KEYRING}] {mirror()} {self.suite} main\n"
        write_whole(sources, lines.encode())
        settings = {
            "Dir::State": self.directory / "state",
            "Dir::State::status": self.directory / "state/status",
            "Dir::Cache": self.directory / "cache",
            "Dir::Etc::sourcelist": sources,
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": self.arch,
            "APT::Architectures": self.arch,
            "APT::Sandbox::User": "root",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        conf = self.directory / "apt.conf"
        write_whole(
            conf, "".join(f'{key} "{value}";\n' for key, value in settings.items()).encode()
        )
        return {"APT_CONFIG": str(conf), "DEBIAN_FRONTEND": "noninteractive"}

    def update(self, where: str) -> None:
        """Fetch the lists of the suite."""
        env = self._environment()
        log = self.directory / "update.log"
        self.store.progress.say(f"asking Debian for the packages of {self.suite} ({self.arch})")
        for pause_s in (*PAUSES_S, 0.0):
            log.unlink(missing_ok=True)
            argv = ["apt-get", "update", "--error-on=any"]
            done = run(argv, env=env, timeout_s=UPDATE_TIMEOUT_S, check=False, log=log)
            said = tail(log)
            if done.status == 0:
                return
            raise_if_full(said)
            if "mirror sync in progress" not in said.lower() or not pause_s:
                break
            self.store.progress.say("the mirror is being synchronised; trying again soon")
            time.sleep(pause_s)
        errors = "\n".join(
            line for line in said.splitlines() if line.startswith(("E:", "Err:", "W:"))
        )
        absent = "does not have a Release file" in said or " 404 " in said
        kind = BadInput if absent else ToolMissing
        problem = "is not on the mirror" if absent else "can't be reached"
        raise kind(
            f"the Debian suite {self.suite} {problem}",
            Evidence(
                excerpt=errors or said,
                where=tuple(place for place in (where, mirror()) if place),
                next_step="name a suite that the mirror has, such as stable, oldstable or sid",
            ),
        )

    def show(self, name: str, where: str) -> Package:
        """Return the newest version of a package. Raises BadInput if there is none."""
        argv = ["apt-cache", "show", "--no-all-versions", f"{name}"]
        done = run(argv, env=self._environment(), timeout_s=60, check=False)
        fields = _fields(done.stdout)
        if done.status != 0 or "SHA256" not in fields:
            raise BadInput(
                f"Debian's {self.suite} has no package {name} for {self.arch}",
                Evidence(
                    where=tuple(place for place in (where, mirror()) if place),
                    excerpt=self._near(name),
                ),
            )
        return Package(
            name=name,
            version=fields["Version"],
            arch=self.arch,
            suite=self.suite,
            sha256=fields["SHA256"],
            size_bytes=int(fields["Size"]),
            depends=tuple(_names(fields.get("Depends", ""))),
        )

    def _near(self, name: str) -> str:
        stem = "-".join(name.split("-")[:2])
        argv = ["apt-cache", "pkgnames", stem]
        names = run(argv, env=self._environment(), timeout_s=60, check=False).stdout.split()
        return "\n".join(sorted(n for n in names if "-dbg" not in n and "headers" not in n)[:20])

    def download(self, package: Package, work: StagingDirectory) -> None:
        """Put a package's .deb into `work.entry`. Raises ToolMissing if it can't be had."""
        argv = ["apt-get", "download", f"{package.name}={package.version}"]
        log = work.directory / "apt.log"
        done = run(
            argv,
            cwd=work.entry,
            env=self._environment(),
            timeout_s=DOWNLOAD_TIMEOUT_S,
            check=False,
            log=log,
            on_line=self.store.progress.update,
        )
        if done.status != 0 or not list(work.entry.glob("*.deb")):
            said = tail(log, TAIL_LINES)
            raise_if_full(said)
            raise ToolMissing(
                f"{package} cannot be downloaded",
                Evidence(excerpt=said, next_step="try again; the mirror may have a newer one"),
            )

    def fetch_source(self, name: str, work: StagingDirectory) -> None:
        """Put a source package's files into `work.entry`. Raises ToolMissing if they aren't had."""
        argv = ["apt-get", "source", "--download-only", name]
        log = work.directory / "apt.log"
        env = self._environment()
        done = run(
            argv, cwd=work.entry, env=env, timeout_s=DOWNLOAD_TIMEOUT_S, check=False, log=log
        )
        if done.status != 0 or not list(work.entry.glob("*.dsc")):
            said = tail(log, TAIL_LINES)
            raise_if_full(said)
            raise ToolMissing(
                f"the source of {name} cannot be downloaded",
                Evidence(excerpt=said, next_step="try again; the mirror may have a newer one"),
            )


def _fields(stanza: str) -> dict[str, str]:
    return {
        line.partition(": ")[0]: line.partition(": ")[2]
        for line in stanza.partition("\n\n")[0].splitlines()
        if not line.startswith(" ")
    }


def _names(depends: str) -> Iterator[str]:
    """Return the names of a Depends field; of alternatives the first."""
    for group in depends.split(","):
        found = re.match(r"\s*([a-z0-9.+-]+)", group)
        if found:
            yield found[1]
