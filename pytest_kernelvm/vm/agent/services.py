"""Services in a booted guest: their modules loaded with their parameters, and unloaded again."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from pytest_kernelvm.config.services import Service
from pytest_kernelvm.errors import BadInput, CommandFailed, Evidence
from pytest_kernelvm.modules.closure import Closure
from pytest_kernelvm.modules.plan import InsmodStep
from pytest_kernelvm.modules.services import (
    LoadedServices,
    Requirement,
    Value,
    closure_of,
    requirement,
)
from pytest_kernelvm.modules.tree import ModuleTree
from pytest_kernelvm.vm.agent.results import LoadedModule


class ServiceCatalogue:
    """The services of a cell, and what they require of its kernel.

    Args:
        services: Those of the vm-config.
        tree: The kernel's modules.
        symbols: The kernel's configuration.
    """

    def __init__(
        self, services: Sequence[Service], tree: ModuleTree, symbols: Mapping[str, str]
    ) -> None:
        self._services = {service.name: service for service in services}
        self._symbols = symbols
        self.tree = tree

    def requirement(self, name: str, **values: Value) -> Requirement:
        """Return what a service requires with some values of its parameters.

        Args:
            name: The service's.
            **values: Of its parameters; the others have their defaults.

        Returns:
            The modules that it needs, with their options.

        Raises:
            BadInput: For a service, a parameter or a value that there is not.
        """
        if name not in self._services:
            raise BadInput(
                f"no service {name}", Evidence(expected=f"one of {', '.join(self._services)}")
            )
        return requirement(self._services[name], values, self._symbols)


class ServiceGuest(Protocol):
    """What services need of a guest."""

    def succeed(self, *argv: str) -> str:
        """Run a program that must succeed."""

    @property
    def modules(self) -> tuple[LoadedModule, ...]:
        """What is loaded."""


class Services:
    """`vm.services`: the services of one guest. Its initramfs must hold their modules.

    Args:
        guest: The booted guest.
        catalogue: Its cell's services.
    """

    def __init__(self, guest: ServiceGuest, catalogue: ServiceCatalogue) -> None:
        self._guest = guest
        self._catalogue = catalogue
        self._loaded = LoadedServices()

    @property
    def loaded(self) -> tuple[str, ...]:
        """The services that are loaded, in the order in which they were."""
        return tuple(self._loaded.closures)

    def load(self, name: str, **values: Value) -> Closure:
        """Load all that a service requires.

        Modules that are there already are used as they are. Raises BadInput for a service, a
        parameter or a value that there is not.

        Args:
            name: The service's.
            **values: Of its parameters; the others have their defaults.

        Returns:
            The closure of the modules.

        Raises:
            CommandFailed: If the guest refuses a module; those before it are taken out again.
        """
        tree = self._catalogue.tree
        needed = self._catalogue.requirement(name, **values)
        closure = closure_of(tree, needed)
        present = {module.name for module in self._guest.modules}
        loaded, steps = self._loaded.load(name, closure, present, needed.with_parameters)
        done: list[str] = []
        try:
            for step in steps:
                self._guest.succeed("insmod", *self._insmod_arguments(tree, step))
                done.append(step.name)
        except CommandFailed:
            for module in reversed(done):
                self._guest.succeed("rmmod", module)
            raise
        self._loaded = loaded
        return closure

    def unload(self, name: str) -> tuple[str, ...]:
        """Unload what a service brought and nobody else holds; return the modules that went.

        Others are the loaded services, modules that are of no service, and the kernel's own users
        of a module. Raises BadInput if the service is not loaded.

        Args:
            name: The service's.

        Returns:
            The modules, in the order in which they went.
        """
        loaded, ahead = self._loaded.unload(name)
        gone, kept = [], []
        for module in ahead:
            uses = {each.name: each.use_count for each in self._guest.modules}
            if uses.get(module, 0):
                kept.append(module)
            elif module in uses:
                self._guest.succeed("rmmod", module)
                gone.append(module)
        self._loaded = loaded.with_unremoved(kept)
        return tuple(gone)

    @staticmethod
    def _insmod_arguments(tree: ModuleTree, step: InsmodStep) -> tuple[str, ...]:
        words = re.findall(r'(?:[^\s"]|"[^"]*"?)+', step.options)
        return f"/lib/modules/{tree.release}/{step.relative}", *words
