"""What services require of a kernel, and which modules they use; no guest is needed here."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from pytest_kernelvm.config.services import Parameter, Service, When
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.modules.closure import Closure, resolve_closure
from pytest_kernelvm.modules.plan import InsmodStep
from pytest_kernelvm.modules.tree import ModuleTree

Value = str | int | bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Requirement:
    """What a service with its parameters requires of a kernel.

    Attributes:
        service: Its name.
        modules: Names and aliases of modules.
        options: (module, its parameters); a module may come several times.
        with_parameters: The modules to which the user, not a default, gave parameters.
    """

    service: str
    modules: tuple[str, ...]
    options: tuple[tuple[str, str], ...] = ()
    with_parameters: tuple[str, ...] = ()


def requirement(
    service: Service, values: Mapping[str, Value], symbols: Mapping[str, str]
) -> Requirement:
    """Return what a service requires.

    Raises BadInput for a parameter or value that the service does not have.

    Args:
        service: The service.
        values: Its parameters by name; those that are absent keep their defaults.
        symbols: The configuration of the kernel: values by symbol, without CONFIG_.
    """
    chosen = _parameter_values(service, values)
    conditional = [each for each in service.when if _holds(each, chosen, symbols)]
    modules = [*service.modules, *(name for each in conditional for name in each.modules)]
    options = _parameter_options(service, chosen)
    options += [option for each in conditional for option in each.options]
    given = [parameter for parameter in service.parameters if parameter.name in values]
    return Requirement(
        service=service.name,
        modules=tuple(dict.fromkeys(modules)),
        options=tuple(options),
        with_parameters=tuple(_module_of(parameter) for parameter in given if parameter.sets),
    )


def _parameter_options(service: Service, chosen: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return (module, its parameter) for the parameters of a service that have a value."""
    return [
        (_module_of(parameter), parameter.as_option(chosen[parameter.name]))
        for parameter in service.parameters
        if parameter.sets and chosen[parameter.name]
    ]


def closure_of(tree: ModuleTree, required: Requirement) -> Closure:
    """Return the closure of a requirement, with its options. Raises BadInput as `resolve_closure`.

    Args:
        tree: The module tree.
        required: The requirement.
    """
    closure = resolve_closure(tree, required.modules, allow_empty=True)
    options = dict(closure.options)
    for module, text in required.options:
        # A module takes the last of several values, which has to be that of the service.
        options[module] = " ".join(filter(None, [options.get(module, ""), text]))
    return replace(closure, options=tuple(options.items()))


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedServices:
    """The loaded services of one guest, and the modules that they use.

    Attributes:
        closures: Service → the modules of its closure, in load order.
        inserted: The modules that were inserted for services, in their order. All other modules
            of the kernel are never removed.
    """

    closures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    inserted: tuple[str, ...] = ()

    def load(
        self,
        service: str,
        closure: Closure,
        present: Collection[str],
        with_parameters: Collection[str] = (),
    ) -> tuple[LoadedServices, tuple[InsmodStep, ...]]:
        """Return what is loaded with one more service, and what to insert for it, in order.

        Args:
            service: Its name.
            closure: Its closure.
            present: The modules that the kernel has now.
            with_parameters: See Requirement.

        Raises:
            BadInput: If the service is loaded already, or a module that is to get parameters.
        """
        if service in self.closures:
            raise BadInput(
                f"the service {service} is loaded already",
                Evidence(next_step="unload it first to load it with other parameters"),
            )
        steps = tuple(step for step in closure.plan.load if step.name not in present)
        late = [name for name in closure.load_order if name in present and name in with_parameters]
        if late:
            raise BadInput(
                f"the service {service} has parameters for modules that are loaded already",
                Evidence(
                    expected="modules that get their parameters when they are loaded",
                    seen=", ".join(late),
                    next_step="unload what loaded them first",
                ),
            )
        closures = {**self.closures, service: closure.load_order}
        inserted = (*self.inserted, *(step.name for step in steps))
        return LoadedServices(closures=closures, inserted=inserted), steps

    def unload(self, service: str) -> tuple[LoadedServices, tuple[str, ...]]:
        """Return what is loaded without a service, and the modules to remove.

        These are the inserted modules that no other service uses, the last one first.

        Args:
            service: Its name.

        Raises:
            BadInput: If the service is not loaded.
        """
        if service not in self.closures:
            raise BadInput(
                f"the service {service} is not loaded",
                Evidence(expected=f"one of {', '.join(self.closures) or 'none'}", seen=service),
            )
        closures = {name: used for name, used in self.closures.items() if name != service}
        used = {module for modules in closures.values() for module in modules}
        gone = tuple(name for name in reversed(self.inserted) if name not in used)
        inserted = tuple(name for name in self.inserted if name in used)
        return LoadedServices(closures=closures, inserted=inserted), gone

    def with_unremoved(self, names: Iterable[str]) -> LoadedServices:
        """Return the same with modules that could not be removed; a later unload removes them.

        Args:
            names: Of modules, normalised.
        """
        more = set(names) - set(self.inserted)
        return replace(self, inserted=(*self.inserted, *sorted(more)))


def _module_of(parameter: Parameter) -> str:
    return parameter.sets.partition(".")[0]


def _parameter_values(service: Service, values: Mapping[str, Value]) -> dict[str, str]:
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
