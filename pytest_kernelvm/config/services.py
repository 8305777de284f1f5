"""Services: named sets of modules and options that a router needs for some purpose."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from pytest_kernelvm.config.typed_yaml.expected import (
    Context,
    Expected,
    ListOf,
    MapOf,
    PlacedText,
    Text,
    placed,
)
from pytest_kernelvm.config.typed_yaml.mistakes import Mistakes
from pytest_kernelvm.config.typed_yaml.nodes import compose
from pytest_kernelvm.config.typed_yaml.rows import Record, Written, given, key, yaml_mapping
from pytest_kernelvm.errors import BadInput, Evidence

SHIPPED = Path(__file__).parent / "services.yaml"

T = TypeVar("T")

KINDS = ("integer", "boolean", "text")

_NAME = r"[a-z][a-z0-9_-]*"
_MODULE = Text(doc="A module's name or alias.", pattern=r"[A-Za-z0-9_.:+-]+", shape="a module")
_BOOLEANS = {"true": "1", "false": "0"}
_VALUE = r"[^\n\r]*"


def _line(doc: str) -> Text:
    return Text(doc=doc, pattern=_VALUE, shape="one line")


def _integer(doc: str) -> Text:
    return Text(doc=doc, pattern=r"-?[0-9]+", shape="an integer")


def _by_name(doc: str, name: str, pattern: str, shape: str, item: Expected[T]) -> MapOf[T]:
    """Return the expectation of a mapping from names of things to like values."""
    key = Text(doc=f"The name of {shape}.", pattern=pattern, shape=shape)
    return MapOf(doc=doc, key=key, placeholder=name, item=item)


def _pairs(found: Mapping[str, T], _context: Context) -> tuple[tuple[str, T], ...]:
    return tuple(found.items())


@yaml_mapping
class Parameter:
    """What a user may choose about a service.

    Attributes:
        name: The parameter's name.
        doc: One line about it.
        kind: One of KINDS.
        default: As the user would write it, empty for the module's own default.
        sets: The `module.parameter` that gets the value, empty if only conditions use it.
        least: The least integer, None for no bound.
        most: The greatest integer, None for no bound.
        allowed: The only values, if not empty.
    """

    name: str = given(lambda _written, context: context.name)
    doc: str = key(Text(doc="What it is.", pattern=r"[^\n\r]+", shape="one line"))
    kind: str = key(Text(doc="The type of its values.", allowed=KINDS), name="type", default="text")
    default: str = key(
        placed("What it is if the user chooses nothing.", pattern=_VALUE, shape="one line"),
        convert=lambda default, _context: default.text,
        default="",
        default_text="the module's own",
    )
    sets: str = key(
        Text(
            doc="The module's parameter that gets the value.",
            pattern=r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+",
            shape="module.parameter",
        ),
        default="",
    )
    least: int | None = key(
        _integer("The least integer."), convert=lambda text, _context: int(text), default=None
    )
    most: int | None = key(
        _integer("The greatest integer."), convert=lambda text, _context: int(text), default=None
    )
    allowed: tuple[str, ...] = key(
        ListOf(doc="The only values.", item=_line("A value.")), default=()
    )

    def fault(self, value: str) -> str:
        """Check a value, as the user writes it.

        Args:
            value: As the user writes it.

        Returns:
            What is expected instead, empty if the value is right.
        """
        if self.allowed and value not in self.allowed:
            return f"one of {', '.join(self.allowed)}"
        if self.kind == "boolean" and value not in _BOOLEANS:
            return "true or false"
        if self.kind == "integer":
            return self._fault_of_integer(value)
        return "" if re.fullmatch(r'[^\n\r"]*', value) else "one line without quotes"

    def _fault_of_integer(self, value: str) -> str:
        if not re.fullmatch(r"-?[0-9]+", value):
            return "a whole number"
        least, most = self.least, self.most
        if (least is not None and int(value) < least) or (most is not None and int(value) > most):
            if least is not None and most is not None:
                return f"a number from {least} to {most}"
            return f"at least {least}" if most is None else f"at most {most}"
        return ""

    def as_option(self, value: str) -> str:
        """Return `parameter=value` as it stands in a line of modprobe.d.

        Args:
            value: As the user writes it; it was checked with `fault`.
        """
        text = _BOOLEANS[value] if self.kind == "boolean" else value
        quoted = f'"{text}"' if re.search(r"\s", text) else text
        return f"{self.sets.partition('.')[2]}={quoted}"


def _check_parameter(parameter: Parameter, written: Written, context: Context) -> None:
    """Refuse a default that the parameter cannot have."""
    if parameter.default:
        _check_default(context.names[-2], parameter, str(written["default"].place))


def _check_default(service: str, parameter: Parameter, where: str) -> None:
    if parameter.default and (fault := parameter.fault(parameter.default)):
        raise BadInput(
            f"{service}: the default of {parameter.name} is {parameter.default!r}",
            Evidence(expected=fault, where=(where,)),
        )


@yaml_mapping
class When:
    """What is added to a service if all conditions hold.

    Attributes:
        symbols: Condition: Kconfig symbols and the values that they must have in the kernel's
            .config, `set` for y or m.
        parameters: Condition: parameters of the service and the values that they must have.
        modules: Modules that are wanted then.
        options: (module, its parameters) that are set then.
    """

    symbols: tuple[tuple[str, str], ...] = key(
        _by_name(
            "Values that the kernel's configuration must have; `set` for y or m.",
            "SYMBOL",
            r"[A-Z0-9_]+",
            "a symbol",
            _line("A value."),
        ),
        convert=_pairs,
        default=(),
    )
    parameters: tuple[tuple[str, str], ...] = key(
        _by_name(
            "Values that the service's parameters must have.",
            "PARAMETER",
            _NAME,
            "a parameter's name",
            _line("A value."),
        ),
        convert=_pairs,
        default=(),
    )
    modules: tuple[str, ...] = key(
        ListOf(doc="Modules that are wanted then.", item=_MODULE), default=()
    )
    options: tuple[tuple[str, str], ...] = key(
        _by_name(
            "Module parameters by module.",
            "MODULE",
            _MODULE.pattern,
            _MODULE.shape,
            _line("As after the module's name in an options line."),
        ),
        convert=_pairs,
        default=(),
    )


@yaml_mapping
class Service:
    """A named set of modules and options.

    Attributes:
        name: The service's name.
        doc: One line about it.
        modules: Modules that it always wants.
        parameters: What a user may choose.
        when: What is added under conditions.
        where: The file that describes it.
    """

    name: str = given(lambda _written, context: context.name)
    doc: str = key(Text(doc="What it is.", pattern=r"[^\n\r]+", shape="one line"), default="")
    modules: tuple[str, ...] = key(
        ListOf(doc="Modules that it always wants.", item=_MODULE), default=()
    )
    parameters: tuple[Parameter, ...] = key(
        _by_name(
            "What a user may choose.",
            "PARAMETER",
            _NAME,
            "a parameter's name",
            Record(
                cls=Parameter,
                doc="A parameter that a user may choose.",
                check=_check_parameter,
            ),
        ),
        convert=lambda found, _context: tuple(found.values()),
        default=(),
    )
    when: tuple[When, ...] = key(
        ListOf(
            doc="What is added under conditions.",
            item=Record(cls=When, doc="What is added where all conditions hold."),
        ),
        default=(),
    )
    where: str = given(lambda _written, context: str(context.file), default="")

    def parameter(self, name: str, where: str = "") -> Parameter:
        """Return the parameter of a name.

        Args:
            name: The parameter's name.
            where: The place that names it, for the error; empty for none.

        Raises:
            BadInput: The service has no such parameter.
        """
        for parameter in self.parameters:
            if parameter.name == name:
                return parameter
        known = ", ".join(parameter.name for parameter in self.parameters)
        raise BadInput(
            f"the service {self.name} has no parameter {name}",
            Evidence(
                expected=f"one of {known}" if known else "none", where=(where,) if where else ()
            ),
        )


@yaml_mapping
class WrittenService(Service):
    """An entry of `services:`: a service, or other defaults for one that comes with the package.

    Attributes:
        keys: The keys that are written.
        defaults: (parameter, its other default).
    """

    keys: frozenset[str] = given(lambda written, _context: frozenset(written))
    defaults: tuple[tuple[str, PlacedText], ...] = key(
        _by_name(
            "Other defaults for a shipped service's parameters.",
            "PARAMETER",
            _NAME,
            "a parameter's name",
            placed("A value.", pattern=_VALUE, shape="one line"),
        ),
        convert=_pairs,
        default=(),
    )

    @property
    def service(self) -> Service:
        """The service with these defaults.

        BadInput is raised if a condition or a default names no parameter of it, or a default does
        not fit.
        """
        own = Service(**{each.name: getattr(self, each.name) for each in fields(Service)})
        for condition in own.when:
            for parameter, _ in condition.parameters:
                own.parameter(parameter, own.where)
        return with_defaults(own, dict(self.defaults))


SERVICES = _by_name(
    "Sets of modules with a name and parameters; those of the package may get other defaults.",
    "SERVICE",
    _NAME,
    "a service's name",
    Record(cls=WrittenService, doc="A service, or other defaults for a shipped one."),
)


@yaml_mapping
class _ServicesFile:
    """The file services.yaml."""

    services: Mapping[str, WrittenService] = key(SERVICES)


@cache
def shipped_services() -> tuple[Service, ...]:
    """Return the services that come with the package."""
    mistakes = Mistakes(SHIPPED)
    file = Record(cls=_ServicesFile, doc="The file.")
    written = file.read(compose(SHIPPED), mistakes)
    mistakes.raise_if_any()
    found = file.value(written, Context(file=SHIPPED))
    return tuple(each.service for each in found.services.values())


def with_shipped(written: Mapping[str, WrittenService], context: Context) -> tuple[Service, ...]:
    """Return the services of a vm-config: its own, and those that come with the package.

    Args:
        written: The entries of the vm-config's `services:`, by name.
        context: Says which file it is.

    Raises:
        BadInput: An entry has no modules and is no change of defaults, or its values do not fit.
    """
    services = {service.name: service for service in shipped_services()}
    for name, each in written.items():
        if each.modules:
            services[name] = each.service
        elif name in services and each.keys <= {"defaults"}:
            services[name] = with_defaults(services[name], dict(each.defaults))
        else:
            raise BadInput(
                f"the service {name} has no modules",
                Evidence(
                    expected="`modules`, or `defaults` for one of " + ", ".join(services),
                    where=(str(context.file),),
                ),
            )
    return tuple(services.values())


def with_defaults(service: Service, values: Mapping[str, PlacedText]) -> Service:
    """Return a service with other defaults.

    BadInput is raised if the service has no such parameter, or the parameter cannot have the value.

    Args:
        service: The service as it is.
        values: The defaults of some of its parameters, by name.
    """
    known = {parameter.name: parameter for parameter in service.parameters}
    for name, value in values.items():
        place = str(value.place)
        known[name] = replace(service.parameter(name, place), default=value.text)
        _check_default(service.name, known[name], place)
    return replace(service, parameters=tuple(known.values()))
