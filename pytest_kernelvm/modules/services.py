"""What services want of a kernel, and who holds which module: no guest in it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from pytest_kernelvm.config.services import Service, When
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.modules.closure import Closure, resolve_closure
from pytest_kernelvm.modules.plan import Insertion
from pytest_kernelvm.modules.tree import ModuleTree

Value = str | int | bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirement:
    """What a service with its parameters comes down to.

    modules: names and aliases. options: (module, parameters).
    demanding: the modules to which the user himself gave parameters.
    """

    service: str
    modules: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()
    demanding: tuple[str, ...] = ()


def requirement(
    service: Service, values: Mapping[str, Value], symbols: Mapping[str, str]
) -> Requirement:
    """Return what a service requires.

    values: of its parameters, others keep their defaults. symbols: the kernel's configuration,
    CONFIG_ left away. Raises BadInput for a parameter or value that does not fit.
    """
    chosen = _chosen(service, values)
    holding = [each for each in service.when if _holds(each, chosen, symbols)]
    options = [
        (parameter.sets.partition(".")[0], parameter.as_option(chosen[parameter.name]))
        for parameter in service.parameters
        if parameter.sets and chosen[parameter.name]
    ]
    options += [option for each in holding for option in each.options]
    modules = [*service.modules, *(name for each in holding for name in each.modules)]
    return Requirement(
        service=service.name,
        modules=tuple(dict.fromkeys(modules)),
        options=tuple(options),
        demanding=tuple(
            parameter.sets.partition(".")[0]
            for parameter in service.parameters
            if parameter.sets and parameter.name in values
        ),
    )


def closure_of(tree: ModuleTree, needed: Requirement) -> Closure:
    """Return the closure of a requirement, its options in it; raises as `resolve_closure`."""
    closure = resolve_closure(tree, needed.modules, allow_empty=True)
    options = dict(closure.options)
    for module, text in needed.options:
        # A module takes the last of several values, and the service's is the closer one.
        options[module] = " ".join(filter(None, [options.get(module, ""), text]))
    return replace(closure, options=tuple(options.items()))


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledger:
    """Who holds which module.

    held: service → the modules of its closure in load order. loaded: modules that the services
    brought in, in the order in which they came; others' modules are never taken out.
    """

    held: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    loaded: tuple[str, ...] = ()

    def load(
        self,
        service: str,
        closure: Closure,
        present: Collection[str],
        demanding: Collection[str] = (),
    ) -> tuple[Ledger, tuple[Insertion, ...]]:
        """Return the ledger with a service held, and what is to be inserted for it, in order.

        present: the modules that the kernel has now. demanding: see Requirement.
        Raises BadInput if the service is held already, or if one of the demanding modules is
        loaded.
        """
        if service in self.held:
            raise BadInput(
                f"the service {service} is loaded already",
                Evidence(next_step="unload it first to load it with other parameters"),
            )
        steps = tuple(step for step in closure.plan.load if step.name not in present)
        late = [name for name in closure.load_order if name in present and name in demanding]
        if late:
            raise BadInput(
                f"the service {service} has parameters for modules that are loaded already",
                Evidence(
                    expected="modules that get their parameters when they are loaded",
                    seen=", ".join(late),
                    next_step="unload what loaded them first",
                ),
            )
        came = tuple(step.name for step in steps)
        held = {**self.held, service: closure.load_order}
        return Ledger(held=held, loaded=(*self.loaded, *came)), steps

    def unload(self, service: str) -> tuple[Ledger, tuple[str, ...]]:
        """Return the ledger without a service, and what to remove: what nobody else holds, last in
        first out.

        Raises BadInput if the service is not held.
        """
        if service not in self.held:
            raise BadInput(
                f"the service {service} is not loaded",
                Evidence(expected=f"one of {', '.join(self.held) or 'none'}", seen=service),
            )
        held = {name: modules for name, modules in self.held.items() if name != service}
        wanted = {module for modules in held.values() for module in modules}
        gone = tuple(name for name in reversed(self.loaded) if name not in wanted)
        kept = tuple(name for name in self.loaded if name in wanted)
        return Ledger(held=held, loaded=kept), gone

    def keeping(self, names: Iterable[str]) -> Ledger:
        """Return the ledger with modules that could not be removed: they may go another time."""
        kept = set(names)
        return replace(self, loaded=(*self.loaded, *sorted(kept - set(self.loaded))))


def _chosen(service: Service, values: Mapping[str, Value]) -> dict[str, str]:
    chosen = {parameter.name: parameter.default for parameter in service.parameters}
    for name, value in values.items():
        parameter = service.parameter(name)
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if fault := parameter.fault(text):
            raise BadInput(
                f"{service.name}: {name} is {text!r}",
                Evidence(expected=fault, seen=text, where=(service.where,)),
            )
        chosen[name] = text
    return chosen


def _holds(condition: When, chosen: Mapping[str, str], symbols: Mapping[str, str]) -> bool:
    return all(chosen[name] == value for name, value in condition.parameters) and all(
        symbols.get(name, "n") in (("y", "m") if value == "set" else (value,))
        for name, value in condition.symbols
    )
