"""Why a module is in a closure: what requires it, and what requires that."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pytest_kernelvm.modules.deps import ModuleFile

Relation = Literal["wanted", "alias", "depends", "softdep pre", "softdep post", "weakdep"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RequiredName:
    """A required name that is no module file itself: an alias, or a builtin module.

    Attributes:
        name: As it was written.
        relation: What it is to its requirer.
        requirer: What requires it, None for the user. Not part of equality: chains can be long.
    """

    name: str
    relation: Relation = "wanted"
    requirer: Requirer | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosureModule:
    """A module in a closure, and why it is there.

    Attributes:
        file: Its file.
        relation: What it is to its requirer.
        requirer: What requires it, None for the user. Not part of equality: chains can be long.
        on_request: Whether modprobe never loads it with the rest, but the kernel may request it at
            run time (weakdeps, softdeps of builtin modules).
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
        """The file's place on the disk."""
        return self.file.path

    @property
    def size_bytes(self) -> int:
        """The size of the file on disk. Raises BadInput without a file."""
        return self.file.size_bytes

    @property
    def reason(self) -> tuple[str, ...]:
        """The chain from what the user wanted to this module.

        Names and relations in turn, as `("nft_ct", "depends", "nf_conntrack")`; one name if the
        user wanted the module itself.
        """
        chain = [self.name]
        link: Requirer = self
        while link.requirer is not None:
            chain.append(link.relation)
            link = link.requirer
            chain.append(link.name)
        return tuple(reversed(chain))


Requirer = RequiredName | ClosureModule
