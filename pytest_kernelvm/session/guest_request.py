"""What a test may ask of its guest: one definition.

From the fields of `GuestRequest` come the marker `kernelvm` and its error text, the keyword
arguments of calls, the options of `kernelvm boot` and the reference page of the marker.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

from pytest_kernelvm.config.model import USERLANDS
from pytest_kernelvm.config.roots import KINDS, Root
from pytest_kernelvm.session.fresh import FRESH
from pytest_kernelvm.session.guest_arguments import (
    Argument,
    Check,
    CommandLineOption,
    boolean,
    instance_of,
    mapping_to,
    names,
    none_is_empty,
    one_of,
    optional,
    seconds,
    text,
)

if TYPE_CHECKING:
    from typing import Self, Unpack

    from pytest_kernelvm.modules.closure import Closure
    from pytest_kernelvm.session.guest_options import GuestOptions

# The networks that a test may ask for; `vms` puts two guests on a link.
CARDS = ("user", "outside")
# `kernelvm boot` boots one guest, so it cannot put it on a link.
_CARD = {"link": "user"}
C_BY_NAME = "C by the name of the module"

_ARGUMENT = "argument"


def _about(meaning: str, check: Check, **rest: Any) -> dict[str, Argument]:
    """Return the metadata of a field."""
    return {_ARGUMENT: Argument(meaning=meaning, check=check, **rest)}


def _closure(name: str, value: Any) -> Any:
    # `kernelvm` imports this file at its start, and needs no closures there.
    from pytest_kernelvm.modules.closure import Closure

    return instance_of(Closure, "a Closure")(name, value)


def _split(text: str) -> tuple[str, ...]:
    return tuple(name for name in text.split(",") if name)


@dataclass(frozen=True, kw_only=True, slots=True)
class GuestRequest:
    """What a test asks of its guest; the metadata of each field says what it is."""

    modules: tuple[str, ...] | None = field(
        default=None,
        metadata=_about(
            "modules that the guest has, with all that they need; default those of the vm-config",
            optional(names),
            option=CommandLineOption(
                flag="--modules", metavar="A,B", from_text=_split, to_text=",".join
            ),
        ),
    )
    closure: Closure | None = field(
        default=None,
        metadata=_about(
            "a closure, instead of modules",
            optional(_closure),
            by_marker=False,
        ),
    )
    userland: str | None = field(
        default=None,
        metadata=_about(
            "whose tools the guest has beside ours: none, kmod or busybox; default that of the "
            "vm-config",
            optional(one_of(*USERLANDS)),
            option=CommandLineOption(flag="--userland", choices=USERLANDS),
        ),
    )
    external: Mapping[str, str] | None = field(
        default=None,
        metadata=_about(
            f"modules that are built beside the kernel's own: {C_BY_NAME}",
            optional(mapping_to(str, C_BY_NAME)),
        ),
    )
    root: Root | None = field(
        default=None,
        metadata=_about(
            "the root file system that the guest boots into; default that of the vm-config",
            optional(instance_of(Root, "a Root")),
            option=CommandLineOption(
                flag="--root",
                choices=KINDS,
                meaning="boot into a root file system of a kind; default that of the vm-config",
                from_text=lambda kind: Root(kind=kind),
                to_text=lambda root: root.kind,
            ),
        ),
    )
    options: Mapping[str, str] = field(
        default_factory=dict,
        metadata=_about(
            "module parameters by the name of the module, added to those of the vm-config",
            none_is_empty(
                mapping_to(str, "parameters by the name of the module", "{'loop': 'max_loop=3'}")
            ),
        ),
    )
    blacklist: tuple[str, ...] = field(
        default=(),
        metadata=_about(
            "modules that modprobe does not load by their aliases, added to those of the vm-config",
            names,
        ),
    )
    files: Mapping[str, bytes] = field(
        default_factory=dict,
        metadata=_about(
            "further files: contents as bytes by absolute path",
            none_is_empty(mapping_to(bytes, "bytes by path")),
        ),
    )
    cmdline: str = field(
        default="",
        metadata=_about(
            "words that are added to the bootloader's command line",
            text,
            option=CommandLineOption(flag="--cmdline", metavar="WORDS"),
        ),
    )
    cookie: bool = field(
        default=True,
        metadata=_about(
            "whether the bootloader's command line has the cookie, which makes the kernel obey it",
            boolean,
            option=CommandLineOption(
                flag="--no-cookie", meaning="leave the cookie off the command line"
            ),
        ),
    )
    shared_console: bool = field(
        default=False,
        metadata=_about(
            "whether the agent talks on the console, as on machines without a second serial port",
            boolean,
        ),
    )
    network: str = field(
        default="",
        metadata=_about(
            "a network card: on QEMU's own network alone (user), or also on the host's (outside)",
            one_of(*CARDS, none=""),
            option=CommandLineOption(
                flag="--network",
                choices=CARDS,
                to_text=lambda card: "user" if card == "link" else card,
            ),
        ),
    )
    boot_timeout_s: float | None = field(
        default=None,
        metadata=_about(
            "seconds of the guest's time that the boot may take; default those of the vm-config",
            optional(seconds),
        ),
    )
    fresh: str | None = field(
        default=None,
        metadata=_about(
            "how the guest gets its state right after boot: restore, boot or share; default as "
            "--kernelvm-fresh says",
            optional(one_of(*FRESH)),
            by_call=False,
        ),
    )
    clean: bool = field(
        default=False,
        metadata=_about(
            "whether the test leaves its guest as it found it, so that another test may have it",
            boolean,
            by_call=False,
        ),
    )

    @classmethod
    def from_marker(cls, arguments: Mapping[str, Any]) -> Self:
        """Return what the arguments of a marker ask for.

        An argument that is unknown, is for calls only or has a wrong value raises TypeError.

        Args:
            arguments: The keyword arguments, as they are written.

        Returns:
            The request.
        """
        return cls(**_checked(arguments, "by_marker", "only calls such as boot_vm take it"))

    def with_options(self, **options: Unpack[GuestOptions]) -> Self:
        """Return this request with some arguments replaced by those of a call.

        An argument that is unknown, is for markers only or has a wrong value raises TypeError.

        Args:
            **options: The arguments of the call.

        Returns:
            The request.
        """
        return replace(self, **_checked(options, "by_call", "only the marker kernelvm takes it"))

    def command_line(self) -> list[str]:
        """Return the options of `kernelvm boot` that ask for the same, where there is an option."""
        given = []
        for name, argument in ARGUMENTS.items():
            value, option = getattr(self, name), argument.option
            if option is None or value == default_of(name):
                continue
            given.append(
                f"{option.flag}={option.to_text(value)}" if option.has_value else option.flag
            )
        return given


def _checked(arguments: Mapping[str, Any], place: str, otherwise: str) -> dict[str, Any]:
    unknown = arguments.keys() - ARGUMENTS.keys()
    if unknown:
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}")
    for name in arguments:
        if not getattr(ARGUMENTS[name], place):
            raise TypeError(f"unexpected keyword argument {name!r}; {otherwise}")
    return {name: ARGUMENTS[name].checked(name, value) for name, value in arguments.items()}


_FIELDS: dict[str, Field[Any]] = {each.name: each for each in fields(GuestRequest)}
# What is known about each argument, by its name.
ARGUMENTS: dict[str, Argument] = {name: each.metadata[_ARGUMENT] for name, each in _FIELDS.items()}


def default_of(name: str) -> Any:
    """Return the value of an argument that is not given.

    Args:
        name: The argument.

    Returns:
        Its default as the marker's signature shows it: None stands for an empty mapping.
    """
    default = _FIELDS[name].default
    return None if default is MISSING else default


def signature() -> str:
    """Return the arguments of the marker `kernelvm` with their defaults, as Python writes them."""
    marked = [name for name, argument in ARGUMENTS.items() if argument.by_marker]
    return ", ".join(["*", *(f"{name}={default_of(name)!r}" for name in marked)])
