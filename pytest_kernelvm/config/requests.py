"""Symbols that a vm-config asks for: fragments, `symbols:`, conditions, and what others imply."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pytest_kernelvm.arch.base import Arch, Cookie
from pytest_kernelvm.config.files import existing_file
from pytest_kernelvm.config.model import Conditional, Fragment, Requested
from pytest_kernelvm.config.typed_yaml import Located
from pytest_kernelvm.config.versions import EVERY_VERSION, VersionRange
from pytest_kernelvm.errors import BadInput, Evidence


def symbol_value(value: Located) -> str:
    """Return what a vm-config says of a symbol as a .config says it: texts are quoted."""
    text = value.text
    plain = text in ("y", "m", "n") or text.removeprefix("-").isdecimal()
    if not value.quoted and (plain or _is_hex(text)):
        return text
    # As scripts/kconfig/util.c, escape_string_value() does.
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _circumstances(given: dict[str, Any]) -> dict[str, Any]:
    versions = given.get("versions")
    return {
        "versions": VersionRange(versions.text) if versions else EVERY_VERSION,
        "optional": given.get("optional", False),
        "force": given.get("force", False),
    }


def read_symbols(given: dict[str, Any]) -> tuple[Requested, ...]:
    """Return the requests of one `symbols` mapping, whose values stand bare or with more."""
    requests = []
    for name, entry in given.items():
        for one in entry if isinstance(entry, tuple) else (entry,):
            detailed = {"value": one} if isinstance(one, Located) else one
            value: Located = detailed["value"]
            requests.append(
                Requested(
                    name=name,
                    value=symbol_value(value),
                    where=str(value.place),
                    **_circumstances(detailed),
                )
            )
    return tuple(requests)


def read_fragment(base: Path, given: Located | dict[str, Any], version: str) -> Fragment:
    """Return a fragment, given by its path or with its circumstances. Raises BadInput."""
    detailed = {"file": given} if isinstance(given, Located) else given
    located: Located = detailed["file"]
    return Fragment(
        path=existing_file(base, located, "the fragment", version),
        where=str(located.place),
        **_circumstances(detailed),
    )


def read_conditional(condition: str, symbols: dict[str, Any], file: Path) -> Conditional:
    """Return what is asked for only where another symbol is set. Raises BadInput."""
    name, _, value = condition.partition("=")
    asked = read_symbols(symbols)
    where = asked[0].where if asked else str(file)
    return Conditional(name=name, value=value, where=where, symbols=asked)


def _is_hex(text: str) -> bool:
    try:
        int(text, 16)
    except ValueError:
        return False
    return text.startswith("0x")


def within_versions(request: Requested, versions: VersionRange) -> Requested:
    """Return what a patch for some versions asks for: of others it asks nothing."""
    both = (each.text for each in (versions, request.versions) if each.text)
    return replace(request, versions=VersionRange(",".join(both)))


def cookie_of(raw: dict[str, Any]) -> tuple[str, bool]:
    """Return the cookie, empty for none, and whether it must be a word of its own."""
    given = raw.get("cookie", "")
    if isinstance(given, str):
        return given, False
    return given["text"], given.get("whole_word", False)


def cookie_facts(arch: Arch, file: Path) -> Cookie:
    """Return how an architecture's kernels are told a cookie.

    file: the vm-config. Raises BadInput where no patch of ours does that.
    """
    if not arch.cookie:
        raise BadInput(
            f"a kernel for {arch.name} cannot be told a cookie",
            Evidence(
                where=(f"{file} (cookie)",),
                next_step="leave out `cookie:`; the kernel heeds the bootloader's command line",
            ),
        )
    return arch.cookie


def implied_symbols(arch: Arch, raw: dict[str, Any], file: Path) -> list[Requested]:
    """Symbols that the cookie and the built-in command line stand for."""
    cookie, whole_word = cookie_of(raw)
    where = f"{file} (builtin_cmdline)"
    # A kernel that heeds the bootloader's line is told there where the initramfs is, and not twice.
    own = arch.builtin_cmdline if cookie else arch.base_cmdline
    words = (own, raw.get("builtin_cmdline", ""))
    line = " ".join(part for part in words if part)
    implied = [
        Requested(name=name, value="y", where=where) for name in arch.builtin_cmdline_symbols
    ]
    implied.append(Requested(name="CMDLINE", value=f'"{line}"', where=where))
    where = f"{file} (cookie)"
    if cookie:
        facts = cookie_facts(arch, file)
        implied.append(Requested(name=facts.require_symbol, value="y", where=where))
        implied.append(Requested(name=facts.symbol, value=f'"{cookie}"', where=where))
        if whole_word:
            implied.append(Requested(name=facts.word_symbol, value="y", where=where))
    return implied
