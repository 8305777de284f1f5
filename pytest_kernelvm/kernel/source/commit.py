"""A commit of a git repository as a source; the user's checkout and index are not touched."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_kernelvm.config.sources import Source
from pytest_kernelvm.errors import BadInput, Evidence, KernelvmError, ToolMissing
from pytest_kernelvm.foreign.links import refuse_links_out
from pytest_kernelvm.process import Completed, failure, find_program, run
from pytest_kernelvm.store.digest import digest_of
from pytest_kernelvm.store.kinds import REPOSITORIES
from pytest_kernelvm.store.store import StagingDirectory, Store
from pytest_kernelvm.store.writing import raise_if_full

FETCH_TIMEOUT_S = 3600.0
GIT_TIMEOUT_S = 600.0
_FULL_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Commit:
    """A commit that is at hand.

    Attributes:
        repository: Its git directory.
        tree: Hash of its content.
        label: The commit in words.
        family: Names the repository; builds of its commits are copied from each other.
    """

    repository: Path
    tree: str
    label: str
    family: str

    @property
    def digest(self) -> str:
        """Names the content, wherever it comes from."""
        return digest_of(["git", self.tree])

    @property
    def config_digest(self) -> str:
        """Names all that can decide a configuration."""
        return self.digest

    def unpack(self, store: Store, work: StagingDirectory, show: Callable[[str], None]) -> None:  # noqa: ARG002
        """Check the commit out into `work.entry/tree`, through an index of our own.

        Raises BadInput if it can't be checked out, or a link in it leads outside.

        Args:
            store: Not needed here.
            work: Where to unpack.
            show: Called with how much is done, in words.
        """
        show("checking out")
        tree = work.entry / "tree"
        index = {"GIT_INDEX_FILE": str(work.directory / "index")}
        for words in (
            ["read-tree", self.tree],
            [f"--work-tree={tree}", "checkout-index", "--all", "--quiet", f"--prefix={tree}/"],
        ):
            done = _git(self.repository, *words, env=index)
            if done.status != 0:
                raise_if_full(done.stderr)
                refused = _refused(f"{self.label} cannot be checked out", done)
                raise refused
        refuse_links_out(tree, self.label)


def find_commit(store: Store, source: Source) -> Commit:
    """Return the commit of a `git` source; what is not at hand is fetched into the store.

    Raises ToolMissing if the repository can't be reached, or git is not installed.

    Args:
        store: Where it is fetched to.
        source: As in the vm-config.

    Returns:
        The commit.

    Raises:
        BadInput: There is no such repository or ref.
    """
    find_program("git", "apt-get install git")
    ref = source.ref or "HEAD"
    repository = _mirror(store, source, ref) if source.is_url else _local(source)
    noted = source.is_url and not _FULL_HASH.fullmatch(ref)
    wanted = _noted_ref(ref) if noted else ref
    done = _git(repository, "rev-parse", "--verify", "--quiet", f"{wanted}^{{commit}}")
    if done.status != 0:
        near = _git(repository, "for-each-ref", "--format=%(refname:short)", "--count=10")
        raise BadInput(
            f"{source.value} has no commit {ref!r}",
            Evidence(
                where=(source.where,),
                excerpt=near.stdout,
                next_step="name a commit, a tag or a branch, such as those above",
            ),
        )
    commit = done.stdout.strip()
    tree = _git(repository, "rev-parse", f"{commit}^{{tree}}", check=True).stdout.strip()
    return Commit(
        repository=repository,
        tree=tree,
        label=f"{source.value} {ref} ({commit[:12]})",
        family=digest_of(["git", source.value if source.is_url else str(repository)]),
    )


def _local(source: Source) -> Path:
    path = Path(source.value).absolute()
    if not path.is_dir():
        raise BadInput(f"the repository {path} does not exist", Evidence(where=(source.where,)))
    done = run(["git", "-C", path, "rev-parse", "--absolute-git-dir"], timeout_s=60, check=False)
    if done.status != 0:
        raise _refused(f"{path} is no git repository", done, source.where)
    return Path(done.stdout.strip())


def _noted_ref(ref: str) -> str:
    return f"refs/kernelvm/{digest_of(ref)[:16]}"


def _mirror(store: Store, source: Source, ref: str) -> Path:
    """Fetch one commit, without its history, into a bare repository of the store."""
    repository = store.place(REPOSITORIES) / digest_of(source.value)
    with store.lock(f"{REPOSITORIES}-{repository.name}", f"the repository {source.value}"):
        if not (repository / "HEAD").is_file():
            run(["git", "init", "--quiet", "--bare", repository], timeout_s=GIT_TIMEOUT_S)
        full = bool(_FULL_HASH.fullmatch(ref))
        at_hand = ref if full else _noted_ref(ref)
        known = _git(repository, "cat-file", "-e", f"{at_hand}^{{commit}}").status == 0
        if known and full:
            return repository
        store.progress.say(f"asking {source.value} for {ref}")
        done = run(
            [
                *("git", "--git-dir", repository, "fetch", "--depth=1", "--no-tags"),
                *("--progress", source.value, f"+{ref}:{_noted_ref(ref)}"),
            ],
            env={"GIT_TERMINAL_PROMPT": "0"},
            timeout_s=FETCH_TIMEOUT_S,
            check=False,
            log=(log := repository / "fetch.log"),
            on_line=store.progress.update,
        )
        if done.status != 0:
            said = failure(done, log)
            raise_if_full(said.excerpt)
            if not known:
                raise _unreachable(source, ref, said)
            store.progress.say(f"{source.value} cannot be reached; using the {ref} of last time")
        log.unlink(missing_ok=True)
    return repository


def _unreachable(source: Source, ref: str, said: Evidence) -> KernelvmError:
    absent = "couldn't find remote ref" in said.excerpt or "not our ref" in said.excerpt
    kind = BadInput if absent else ToolMissing
    problem = f"has no {ref!r}" if absent else "cannot be fetched"
    return kind(
        f"{source.value} {problem}",
        Evidence(excerpt=said.excerpt, command=said.command, where=(source.where,)),
    )


def _git(
    repository: Path, *words: str, env: dict[str, str] | None = None, check: bool = False
) -> Completed:
    argv: list[str | Path] = ["git", "--git-dir", repository, *words]
    return run(argv, env=env, timeout_s=GIT_TIMEOUT_S, check=check)


def _refused(summary: str, done: Completed, where: str = "") -> BadInput:
    said = failure(done)
    return BadInput(
        summary,
        Evidence(excerpt=said.excerpt, command=said.command, where=(where,) if where else ()),
    )
