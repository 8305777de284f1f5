"""Why a module is in a closure: who asked for it, and who asked for that."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pytest_kernelvm.modules.deps import ModuleFile

Relation = Literal["wanted", "alias", "depends", "softdep pre", "softdep post", "weakdep"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RequiredName:
    """A name on the way to a module that is no module file itself: an alias, a builtin module.

    name: as it was written. relation: how its requirer names it.
    requirer: who does; None if the user does. Not part of equality: chains can be long.
    """

    name: str
    relation: Relation = "wanted"
    requirer: Requirer | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosureModule:
    """A module in a closure, and why.

    file: its file. relation: how its requirer names it.
    requirer: who does; None if the user does. Not part of equality: chains can be long.
    on_request: modprobe never loads it with the rest; the kernel may ask for it at run time
        (weakdeps, softdeps of builtin modules).
    """

    file: ModuleFile
    relation: Relation = "wanted"
    requirer: Requirer | None = field(default=None, repr=False, compare=False)
    on_request: bool = False

    @property
    def name(self) -> str:
        """The module's name."""
        return self.file.name

    @property
    def path(self) -> Path:
        """Where its file is."""
        return self.file.path

    @property
    def size_bytes(self) -> int:
        """The file's size on disk."""
        return self.file.size_bytes

    @property
    def reason(self) -> tuple[str, ...]:
        """The chain from what the user asked for to this module.

        Names and relations in turn: `("nft_ct", "depends", "nf_conntrack")`; one name if it was
        itself asked for.
        """
        chain = [self.name]
        link: Requirer = self
        while link.requirer is not None:
            chain.append(link.relation)
            link = link.requirer
            chain.append(link.name)
        return tuple(reversed(chain))


Requirer = RequiredName | ClosureModule
