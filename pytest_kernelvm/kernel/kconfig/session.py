"""From a base and requests to a final .config. conf decides, and every loss is explained."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pytest_kernelvm.arch.base import Arch
from pytest_kernelvm.config.kernel import KernelConfig
from pytest_kernelvm.config.requests import Conditional, Requested
from pytest_kernelvm.errors import BadInput, BuildFailed, Evidence, KernelvmError, ToolMissing
from pytest_kernelvm.kernel.kconfig.dot_config import (
    as_config,
    lost_requests,
    not_set,
    parse_config,
    same_value,
)
from pytest_kernelvm.kernel.kconfig.requests import conditionals_of, merge, requests_of
from pytest_kernelvm.process import run_attached, status_words
from pytest_kernelvm.toolchain.config_tools import lacks_program

if TYPE_CHECKING:
    from pytest_kernelvm.kernel.kconfig.menus import Menus

_ENVIRONMENT = "kernelvm-environment"
# The kernel's Makefile gives goals that end in config to kconfig.
_ENVIRONMENT_GOAL = "kernelvm-environment-config"


class KernelMake(Protocol):
    """The make of a kernel for one build directory, with the compiler of the build."""

    def make(self, *goals: str) -> None:
        """Make some goals. Raises BuildFailed.

        Args:
            goals: Goals, variables and options.
        """

    def make_argv(self, *goals: str) -> list[str]:
        """Return the command that makes some goals."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinalConfig:
    """The configuration that conf made.

    Attributes:
        requests: All that was requested, symbols of conditional rules that hold included.
        text: The final .config.
    """

    requests: Mapping[str, Requested]
    text: str

    @property
    def values(self) -> dict[str, str]:
        """The symbols that are set."""
        return parse_config(self.text)

    @property
    def lost(self) -> tuple[Requested, ...]:
        """The requests that were not honoured though they had to be."""
        gone = lost_requests(self.requests, self.values)
        return tuple(request for request in gone if not request.optional)

    @property
    def dropped(self) -> tuple[Requested, ...]:
        """The optional requests that were not honoured."""
        return tuple(each for each in lost_requests(self.requests, self.values) if each.optional)


class KconfigSession:
    """The configuration of a kernel in a build directory.

    Attributes:
        kernel: The kernel of the vm-config.
        arch: Its architecture.
        label: What the kernel is called in errors.
        version: The version of the source.
        tree: The source, patched.
        directory: The build directory.
    """

    def __init__(
        self,
        *,
        kernel: KernelConfig,
        arch: Arch,
        label: str,
        version: str,
        tree: Path,
        directory: Path,
        make: KernelMake,
    ) -> None:
        """Configure nothing yet.

        Args:
            kernel: The kernel of the vm-config.
            arch: Its architecture.
            label: What the kernel is called in errors.
            version: The version of the source.
            tree: The source, patched.
            directory: The build directory.
            make: Runs make in it.
        """
        self.kernel = kernel
        self.arch = arch
        self.label = label
        self.version = version
        self.tree = tree
        self.directory = directory
        self._make = make
        self._base = ""
        self._tristates: frozenset[str] = frozenset()

    @property
    def file(self) -> Path:
        """The .config in the build directory."""
        return self.directory / ".config"

    def configure(self) -> FinalConfig:
        """Write the final `.config`: base, unnamed tristates, requests, conditional symbols.

        Raises BadInput for requests that contradict each other, for conditional symbols that remove
        what they depend on, and for `auto_modules` without MODULES; BuildFailed if make fails.

        Returns:
            What conf made of it; it may have lost requests.
        """
        requests = requests_of(self.kernel, self.version)
        self._base = self._make_base()
        if self.kernel.auto_modules or self.kernel.prefer_builtin:
            self._tristates = self._unnamed_tristates()
        final = self._with_conditionals(requests.values())
        self._check_modules(final.values)
        return final

    def _with_conditionals(self, requests: Collection[Requested]) -> FinalConfig:
        """Configure again and again, until the rules that were applied are those that hold."""
        rules = conditionals_of(self.kernel, self.version)
        applied: tuple[Conditional, ...] = ()
        while True:
            symbols = (request for rule in applied for request in rule.symbols)
            final = self._final_config(merge([*requests, *symbols]))
            holding = tuple(rule for rule in rules if _holds(rule, final.values))
            undone = [rule for rule in applied if rule not in holding]
            if undone:
                raise _undoes_itself(self.label, undone, applied)
            # Otherwise there is at least one more rule to apply than in this round.
            if holding == applied:
                return final
            applied = holding

    def _final_config(self, requests: Mapping[str, Requested]) -> FinalConfig:
        values = {
            name: request.value
            for name, request in requests.items()
            if not _needs_absent_program(request)
        }
        return FinalConfig(requests=requests, text=self.resolve(values))

    def changed_from_base(self, final: FinalConfig) -> tuple[str, ...]:
        """Return the symbols that came out other than in the base, and that nobody requested.

        Args:
            final: The configuration that `configure` returned.

        Returns:
            None of them if the base is a defconfig: only a complete .config is meant to stay as it
            is.
        """
        if not Path(self.kernel.base).is_file():
            return ()
        values = final.values
        return tuple(
            name
            for name, value in parse_config(self._base).items()
            if name not in final.requests and not same_value(value, values.get(name, "n"))
        )

    def olddefconfig(
        self, values: Mapping[str, str], answers: Mapping[str, str] | None = None
    ) -> str:
        """Return the .config that olddefconfig makes of the base and some values behind it.

        Args:
            values: By symbol.
            answers: Values for symbols that nobody names; `values` come behind and count more.
        """
        requested = as_config(answers or {}) + as_config(values)
        self.file.write_text(f"{self._base}\n{requested}")
        self._make.make("olddefconfig")
        return self.file.read_text()

    def menus(
        self, values: Mapping[str, str], environment: Mapping[str, str] | None = None
    ) -> Menus:
        """Return the Kconfig files with some values.

        Raises HarnessError where Kconfiglib cannot parse them, BuildFailed where make fails.

        Args:
            values: By symbol.
            environment: That of conf; None to get it from the kernel's make.
        """
        # Kconfiglib is imported only when something is to be explained.
        from pytest_kernelvm.kernel.kconfig.menus import Menus

        environment = environment or self.environment()
        return Menus.parse("Kconfig", environment=environment, values=values)

    def explain(
        self, final: FinalConfig, environment: Mapping[str, str] | None = None
    ) -> KernelvmError:
        """Return the error that explains what a final configuration lost.

        conf may be run again for that. Where Kconfiglib cannot parse the files the error says so,
        and lists the losses.

        Args:
            final: The configuration.
            environment: As for `menus`.
        """
        from pytest_kernelvm.kernel.kconfig.losses import explain_losses
        from pytest_kernelvm.kernel.kconfig.remedy import find_remedy
        from pytest_kernelvm.kernel.kconfig.report import explained, unexplained

        try:
            menus = self.menus(final.values, environment)
        except KernelvmError as error:
            return unexplained(self.label, final.lost, final.values, self.tree, error.summary)
        losses = explain_losses(final.lost, menus, final.requests, self.tree)
        remedy = find_remedy(losses, menus, final.requests, self._trial)
        return explained(self.label, losses, remedy)

    def edit(self) -> str:
        """Let a person change `.config` with nconfig on this terminal.

        Returns:
            The `.config` afterwards.

        Raises:
            ToolMissing: Where nconfig cannot be compiled.
        """
        status = run_attached(self._make.make_argv("nconfig"))
        if status != 0:
            raise ToolMissing(
                f"make nconfig {status_words(status)}",
                Evidence(
                    expected="ncurses with its headers",
                    next_step="read make's messages above; apt-get install libncurses-dev",
                ),
            )
        return self.file.read_text()

    def environment(self) -> dict[str, str]:
        """Return the environment that the kernel's make gives to conf.

        Raises:
            BadInput: Where it cannot be read. If make fails, that is a BuildFailed.
        """
        file = self.directory / _ENVIRONMENT
        self._make.make(
            f"--eval={_ENVIRONMENT_GOAL}: ; @env -0 >{_ENVIRONMENT}",
            _ENVIRONMENT_GOAL,
        )
        try:
            entries = file.read_text().split("\0")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"cannot read make's environment: {error}") from None
        return dict(entry.split("=", 1) for entry in entries if "=" in entry)

    def _trial(self, values: Mapping[str, str]) -> Mapping[str, str]:
        return parse_config(self.resolve(values))

    def _make_base(self) -> str:
        base = Path(self.kernel.base)
        self.directory.mkdir(parents=True, exist_ok=True)
        if base.is_file():
            return base.read_text()
        try:
            self._make.make(self.kernel.base)
        except BuildFailed as error:
            raise self._no_such_base(error) from None
        return self.file.read_text()

    def _no_such_base(self, error: BuildFailed) -> KernelvmError:
        """A named defconfig that this source lacks is the user's mistake, with a near name."""
        name = self.kernel.base
        directory = self.tree / "arch" / self.arch.linux_arch / "configs"
        if not name.endswith("_defconfig") or (directory / name).is_file():
            return error
        known = sorted(path.name for path in directory.glob("*defconfig"))
        near = difflib.get_close_matches(name, known, n=3)
        return BadInput(
            f"{self.label}: the source has no {name}",
            Evidence(
                expected=f"one of {directory.relative_to(self.tree)}",
                excerpt=error.evidence.excerpt,
                next_step=f"did you mean {' or '.join(near)}?" if near else "",
            ),
        )

    def _unnamed_tristates(self) -> frozenset[str]:
        """The tristate symbols that nobody names, a complete .config as base included."""
        named = (
            {*parse_config(self._base), *not_set(self._base)}
            if Path(self.kernel.base).is_file()
            else set()
        )
        files = (path for path in self.tree.rglob("Kconfig*") if path.is_file())
        return tristates(path.read_text(errors="replace") for path in files) - named

    def resolve(self, values: Mapping[str, str]) -> str:
        """Return the .config for some values, with m or y for each tristate that nobody names.

        Args:
            values: By symbol.
        """
        free = self._tristates - set(values)
        if not (self.kernel.auto_modules and self.kernel.prefer_builtin):
            answer = "m" if self.kernel.auto_modules else "y"
            return self.olddefconfig(values, dict.fromkeys(free, answer))
        # Symbols that are y by default stay y; the others become m once they are visible.
        answers: dict[str, str] = {}
        while True:
            text = self.olddefconfig(values, answers)
            found = (not_set(text) & free) - set(answers)
            if not found:
                return text
            answers |= dict.fromkeys(found, "m")

    def _check_modules(self, values: Mapping[str, str]) -> None:
        if self.kernel.auto_modules and values.get("MODULES") != "y":
            raise BadInput(
                f"{self.label}: auto_modules, but MODULES is n: every m would mean y",
                Evidence(next_step="request MODULES=y, or use prefer_builtin instead"),
            )


def tristates(kconfig_texts: Iterable[str]) -> frozenset[str]:
    """Return the symbols to which some Kconfig file gives the type tristate.

    Args:
        kconfig_texts: The contents of Kconfig files.
    """
    found: set[str] = set()
    for text in kconfig_texts:
        name = ""
        for line in text.splitlines():
            words = line.split(maxsplit=2)
            if not words:
                continue
            if words[0] in ("config", "menuconfig", "choice"):
                name = words[1] if len(words) > 1 else ""
            elif name and words[0] in ("tristate", "def_tristate"):
                found.add(name)
    return frozenset(found)


def _needs_absent_program(request: Requested) -> bool:
    """Whether a request may be lost, and must be: conf does not ask for some programs itself."""
    return request.optional and request.value == "y" and lacks_program(request.name)


def _holds(rule: Conditional, values: Mapping[str, str]) -> bool:
    value = values.get(rule.name, "n")
    if rule.value:
        return same_value(value, rule.value)
    return not same_value(value, "n")


def _undoes_itself(
    label: str, undone: list[Conditional], applied: tuple[Conditional, ...]
) -> BadInput:
    shown = [
        f"{rule.name}{'=' if rule.value else ''}{rule.value}: "
        f"{', '.join(map(str, rule.symbols))}  ({rule.where})"
        for rule in applied
    ]
    names = " and ".join(dict.fromkeys(rule.name for rule in undone))
    return BadInput(
        f"{label}: conditional symbols take away what they depend on: {names}",
        Evidence(
            expected="conditions that still hold when their symbols are asked for",
            excerpt="\n".join(shown),
            next_step=f"drop the one that changes {names}",
        ),
    )
