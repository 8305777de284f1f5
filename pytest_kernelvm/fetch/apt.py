"""apt with lists, cache and status of its own, for one architecture of one Debian suite.

The host's apt stays as it is. apt checks the signatures of the suite and the hashes of packages.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.errors import BadInput, Evidence, KernelvmError, ToolMissing
from pytest_kernelvm.process import TAIL_LINES, find_program, run, tail
from pytest_kernelvm.store.kinds import PACKAGE_LISTS
from pytest_kernelvm.store.store import StagingDirectory, Store
from pytest_kernelvm.store.writing import raise_if_full, write_whole

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
HOST_SOURCES = Path("/etc/apt")
MIRROR = "http://deb.debian.org/debian"
UPDATE_TIMEOUT_S = 600.0
DOWNLOAD_TIMEOUT_S = 3600.0
# Seconds between attempts while a mirror is being synchronised.
PAUSES_S = (10.0, 30.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One package of a suite.

    Attributes:
        name: As in `apt-get install`.
        version: Of the package, such as 6.12.30-1.
        arch: Debian's name of its architecture.
        suite: Where it is from, such as bookworm.
        sha256: Of its .deb, in hex.
        size_bytes: Of its .deb.
        depends: Names of the packages that it needs; of alternatives the first.
    """

    name: str
    version: str
    arch: str
    suite: str
    sha256: str
    size_bytes: int
    depends: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name} {self.version} ({self.arch}, {self.suite})"


class Apt:
    """apt with lists, cache and status of its own, for one architecture of one suite.

    Args:
        store: Where all of that is.
        arch: Debian's name of the architecture.
        suite: Such as bookworm or sid.
        kind: deb for packages, deb-src for sources (sources.list(5)).

    Attributes:
        directory: Where all of that is; whoever uses it holds the lock of its name.
    """

    def __init__(self, store: Store, arch: str, suite: str, kind: str = "deb") -> None:
        self.store = store
        self.arch = arch
        self.suite = suite
        self.kind = kind
        self.directory = store.place(PACKAGE_LISTS) / f"{suite}-{arch}-{kind}"

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
        """Fetch the lists of the suite.

        Raises BadInput if the suite does not exist, ToolMissing if the mirror can't be reached.

        Args:
            where: File and line that name the suite, for errors; empty for none.
        """
        env = self._environment()
        self.store.progress.say(f"asking Debian for the packages of {self.suite} ({self.arch})")
        for pause_s in (*PAUSES_S, None):
            said = self._failed_update(env)
            if said is None:
                return
            raise_if_full(said)
            if "mirror sync in progress" not in said.lower() or pause_s is None:
                raise self._not_updated(said, where)
            self.store.progress.say("the mirror is being synchronised; trying again soon")
            time.sleep(pause_s)

    def _failed_update(self, env: Mapping[str, str]) -> str | None:
        """Try once to fetch the lists; return what apt said if it failed, None if it did not."""
        log = self.directory / "update.log"
        log.unlink(missing_ok=True)
        argv = ["apt-get", "update", "--error-on=any"]
        done = run(argv, env=env, timeout_s=UPDATE_TIMEOUT_S, check=False, log=log)
        return tail(log) if done.status != 0 else None

    def _not_updated(self, said: str, where: str) -> KernelvmError:
        errors = "\n".join(
            line for line in said.splitlines() if line.startswith(("E:", "Err:", "W:"))
        )
        absent = "does not have a Release file" in said or " 404 " in said
        kind = BadInput if absent else ToolMissing
        problem = "is not on the mirror" if absent else "can't be reached"
        return kind(
            f"the Debian suite {self.suite} {problem}",
            Evidence(
                excerpt=errors or said,
                where=tuple(place for place in (where, mirror()) if place),
                next_step="name a suite that the mirror has, such as stable, oldstable or sid",
            ),
        )

    def show(self, name: str, where: str) -> Package:
        """Return the newest version of a package.

        Args:
            name: Of the package.
            where: File and line that name the package, for errors; empty for none.

        Returns:
            The package, which is not downloaded.

        Raises:
            BadInput: There is none of that name.
        """
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
        """Put a package's .deb into `work.entry`.

        Args:
            package: What `show` has returned.
            work: Where it is put, with apt's log beside.

        Raises:
            ToolMissing: It can't be downloaded.
        """
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
        """Put a source package's files into `work.entry`.

        Args:
            name: Of the source package.
            work: Where they are put, with apt's log beside.

        Raises:
            ToolMissing: They can't be downloaded.
        """
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
