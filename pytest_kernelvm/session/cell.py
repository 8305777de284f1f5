"""A cell made ready: its kernel, programs, closures and initramfs, and guests that boot them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_kernelvm.config.model import CellConfig, ModprobeConfig
from pytest_kernelvm.config.roots import Root
from pytest_kernelvm.errors import BadInput, Evidence
from pytest_kernelvm.guest.cpio import Entry
from pytest_kernelvm.guest.initramfs import Initramfs, guest_entries, pack, preinit_entries
from pytest_kernelvm.guest.programs import GuestPrograms, compile_program, compile_programs
from pytest_kernelvm.guest.protocol import SHARED_CONSOLE
from pytest_kernelvm.guest.root_image import make_root_image
from pytest_kernelvm.guest.userland import Userland, obtain_userland
from pytest_kernelvm.kernel.build.build import Kernel, build_kernel
from pytest_kernelvm.kernel.out_of_tree.inline_sources import tree_with_modules
from pytest_kernelvm.modules.closure import Closure, resolve_closure
from pytest_kernelvm.modules.modprobe_d import ModprobeD
from pytest_kernelvm.modules.names import normalise
from pytest_kernelvm.modules.tree import ModuleTree
from pytest_kernelvm.process import quoted
from pytest_kernelvm.session.guest_request import GuestRequest
from pytest_kernelvm.store.intact import require_intact, require_intact_below
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.vm.agent.services import ServiceCatalogue
from pytest_kernelvm.vm.bootpath.root import boot_into, erase_bytes
from pytest_kernelvm.vm.machine.bootable import Bootable
from pytest_kernelvm.vm.qemu.argv import Boot
from pytest_kernelvm.vm.qemu.snapshot import require_intact_boot
from pytest_kernelvm.vm.verdict.calibration import calibration_of
from pytest_kernelvm.vm.verdict.deadlines import Calibration, TimeLimits

if TYPE_CHECKING:
    from typing import Unpack

    from pytest_kernelvm.session.guest_options import GuestOptions


class Cell:
    """One kernel on one machine, with all that it takes to boot it; each is made when first used.

    Attributes:
        config: The cell as the vm-config describes it.
        store: Where everything that is built for it is stored.
        external: Modules that are built beside the kernel's own: C by the name of the module.
    """

    def __init__(
        self, config: CellConfig, store: Store, *, external: Mapping[str, str] | None = None
    ) -> None:
        """Describe the cell; nothing is built yet.

        Args:
            config: The cell as the vm-config describes it.
            store: Where everything that is built for it is stored.
            external: Modules that are built beside the kernel's own: C by the name of the module.
        """
        self.config = config
        self.store = store
        self.external = dict(external or {})
        self._closures: dict[tuple[str, ...], Closure] = {}
        self._variants: list[Cell] = []

    def __repr__(self) -> str:
        return f"<cell {self.config.id}>"

    @cached_property
    def kernel(self) -> Kernel:
        """The kernel, built if need be."""
        return build_kernel(self.store, self.config)

    @cached_property
    def programs(self) -> GuestPrograms:
        """The agent and modprobe, compiled if need be."""
        return compile_programs(self.store, self.kernel, cpu=self.config.machine.cpu)

    @cached_property
    def tree(self) -> ModuleTree:
        """The kernel's modules and external ones, with the vm-config's settings of modprobe."""
        configured = self.config.modprobe
        modprobe_d = ModprobeD(
            options=tuple((normalise(name), text) for name, text in configured.options),
            blacklist=tuple(normalise(name) for name in configured.blacklist),
        )
        directory = self.kernel.module_tree
        if self.external:
            directory = tree_with_modules(self.store, self.config, self.kernel, self.external)
        require_intact(directory.glob("modules.*"))
        return ModuleTree(directory, modprobe_d=modprobe_d)

    @cached_property
    def services(self) -> ServiceCatalogue:
        """What the vm-config's services require of the kernel."""
        return ServiceCatalogue(self.config.services, self.tree, self.kernel.config)

    @cached_property
    def userland(self) -> Userland | None:
        """The tools of another userland, fetched or built if need be; None for ours alone."""
        name = self.config.guest.userland
        return None if name == "none" else obtain_userland(self.store, self.config.arch, name)

    def variant(
        self,
        *,
        userland: str | None = None,
        external: Mapping[str, str] | None = None,
        root: Root | None = None,
    ) -> Cell:
        """Return this cell with some things replaced; the same arguments return the same cell.

        Args:
            userland: Whose tools its guests have; None for those of this cell.
            external: Modules beside the kernel's own, C by name; None for those of this cell.
            root: The root file system that it boots into; None for that of this cell.

        Returns:
            The cell, which may be this one.
        """
        config = self.config
        if userland is not None:
            config = replace(config, guest=replace(config.guest, userland=userland))
        config = config if root is None else replace(config, root=root)
        modules = self.external if external is None else dict(external)
        for known in (self, *self._variants):
            if known.config == config and known.external == modules:
                return known
        self._variants.append(Cell(config, self.store, external=modules))
        return self._variants[-1]

    @cached_property
    def calibration(self) -> Calibration:
        """How fast this machine runs the cell's guests, measured if need be."""
        return calibration_of(self.store, self.config.arch, self.config.machine)

    def compile_program(self, source: str) -> bytes:
        """Return a small static program for this cell's guests, compiled with its nolibc.

        A compiler that fails raises BuildFailed with its message.

        Args:
            source: The program in C, without includes.

        Returns:
            The program, an ELF file.
        """
        with tempfile.TemporaryDirectory(prefix="kernelvm-") as directory:
            text, program = Path(directory, "program.c"), Path(directory, "program")
            text.write_text(source)
            compile_program(self.kernel, text, program)
            return program.read_bytes()

    def closure(self, modules: Iterable[str] | None = None) -> Closure:
        """Return the closure of some modules.

        A module that is missing raises BadInput as `resolve_closure` does; the vm-config says which
        ones may be missing.

        Args:
            modules: Names or aliases of modules; None for those of the vm-config.

        Returns:
            The modules with all that they need, in load order.
        """
        wanted = tuple(self.config.modules if modules is None else modules)
        if wanted not in self._closures:
            self._closures[wanted] = resolve_closure(
                self.tree,
                wanted,
                allow_missing=self.config.allow_missing,
                allow_empty=self.config.allow_empty,
            )
        return self._closures[wanted]

    def initramfs(
        self,
        closure: Closure | None = None,
        *,
        options: Mapping[str, str] | None = None,
        blacklist: Iterable[str] = (),
        files: Mapping[str, bytes] | None = None,
    ) -> Initramfs:
        """Return the initramfs of a closure.

        Args:
            closure: The modules; None for those of the vm-config.
            options: Module parameters by the name of the module, added to those of the vm-config.
            blacklist: Modules that modprobe does not load by their aliases, added likewise.
            files: Further files: contents by path.

        Returns:
            The archive, in the store.
        """
        chosen = self.closure() if closure is None else closure
        request = GuestRequest(options=options or {}, blacklist=tuple(blacklist), files=files or {})
        return self._packed(chosen, self._guest_entries(chosen, request))

    def _packed(self, closure: Closure, entries: Iterable[Entry]) -> Initramfs:
        return pack(self.store, entries, compressed=not (closure.modules or self.userland))

    def _guest_entries(self, closure: Closure, request: GuestRequest) -> list[Entry]:
        self._require_intact(closure)
        return guest_entries(
            self.programs,
            tree=self.tree,
            closure=closure,
            modprobe=self._modprobe(request),
            files=request.files,
            userland=self.userland,
        )

    def _require_intact(self, closure: Closure) -> None:
        """Compare what is packed for a guest with what the store noted of it."""
        programs = self.programs
        require_intact((programs.agent, programs.modprobe, programs.preinit, programs.activate))
        require_intact(module.path for module in closure.modules)
        if self.userland:
            require_intact_below(self.userland.root)

    def _modprobe(self, request: GuestRequest) -> ModprobeConfig:
        configured = self.config.modprobe
        return ModprobeConfig(
            options=(*configured.options, *request.options.items()),
            blacklist=(*configured.blacklist, *request.blacklist),
        )

    def boot(
        self,
        initramfs: Initramfs | None,
        *,
        cmdline: str = "",
        cookie: bool = True,
        shared_console: bool = False,
        network: str = "",
    ) -> Boot:
        """Return what QEMU has to boot.

        An initramfs that is too large for a boot without the cookie raises BadInput.

        Args:
            initramfs: The archive; None for a boot without one.
            cmdline: Words that are added to the command line of the vm-config.
            cookie: Whether that command line has the cookie, which makes the kernel obey it.
            shared_console: Whether the agent talks on the console, as on machines without a second
                serial port.
            network: The kind of network card as in Boot; empty for none.

        Returns:
            The description of the boot.
        """
        shared_console = shared_console or self.kernel.shared_console
        words = f"{cmdline} {SHARED_CONSOLE}".strip() if shared_console else cmdline
        fixed = bool(self.config.cookie) and not cookie
        if fixed and initramfs:
            self._require_room_for(initramfs)
        return Boot(
            arch=self.config.arch,
            machine=self.config.machine,
            image=self.kernel.image,
            initramfs=initramfs.path if initramfs else None,
            cmdline=self.config.bootloader_cmdline(words=words, cookie=cookie),
            fixed_initramfs=fixed,
            shared_console=shared_console,
            network=network,
        )

    def _require_room_for(self, initramfs: Initramfs) -> None:
        """Check that an initramfs fits where a kernel without the cookie finds it."""
        room = self.config.arch.fixed_initramfs
        if room and initramfs.size_bytes > room.size_bytes:
            raise BadInput(
                f"the initramfs has {initramfs.size_bytes} bytes, and without the cookie "
                f"{self.config.id} finds {room.size_bytes} bytes at a fixed address",
                Evidence(next_step="ask for fewer modules in this test"),
            )

    def variant_for(self, request: GuestRequest) -> Cell:
        """Return this cell with the userland, external modules and root that a request names."""
        return self.variant(userland=request.userland, external=request.external, root=request.root)

    def bootable(
        self, request: GuestRequest | None = None, /, **options: Unpack[GuestOptions]
    ) -> Bootable:
        """Return what a guest is made of.

        An option with a wrong value raises TypeError. A file that is not what was put into the
        store raises DamagedStore.

        Args:
            request: What is asked of the guest; None for what the vm-config says alone.
            **options: Arguments of a request; they override those of `request`.

        Returns:
            What `Guests` and `Vm` boot.
        """
        request = (request or GuestRequest()).with_options(**options)
        return self.variant_for(request)._bootable(request)

    def _bootable(self, request: GuestRequest) -> Bootable:
        chosen = request.closure if request.closure is not None else self._closure_for(request)
        root = self.config.root
        contents = self._guest_entries(chosen, request)
        initramfs = self._preinit(root) if root else self._packed(chosen, contents)
        boot = self.boot(
            initramfs,
            cmdline=request.cmdline,
            cookie=request.cookie,
            shared_console=request.shared_console,
            network=request.network,
        )
        if root:
            boot = self._boot_into(root, boot, contents)
        require_intact_boot(boot)
        timeouts = self.config.timeouts
        boot_s = timeouts.boot_s if request.boot_timeout_s is None else request.boot_timeout_s
        return Bootable(
            label=self.config.id,
            boot=boot,
            abi=self.programs.abi,
            terminal=self.programs.terminal,
            limits=TimeLimits(
                boot_s=boot_s, command_s=timeouts.command_s, calibration=self.calibration
            ),
            boot_command=self._boot_command(chosen, request),
            services=self.services,
        )

    def _closure_for(self, request: GuestRequest) -> Closure:
        """Return the closure of a request's modules, with a network card's driver if it has one."""
        if not request.network:
            return self.closure(request.modules)
        modules = self.config.modules if request.modules is None else request.modules
        return self.closure(dict.fromkeys((*modules, *self.config.arch.network_modules)))

    def _preinit(self, root: Root) -> Initramfs:
        """Return the initramfs that leads into a root."""
        closure = resolve_closure(self.tree, root.modules, allow_empty=True)
        self._require_intact(closure)
        entries = preinit_entries(
            self.programs,
            tree=self.tree,
            closure=closure,
            modprobe=self._modprobe(GuestRequest()),
            root=root,
        )
        return pack(self.store, entries, compressed=False)

    def _boot_into(self, root: Root, boot: Boot, contents: Iterable[Entry]) -> Boot:
        """Return a boot with a root in memory, which holds what the initramfs else would."""
        arch = self.config.arch
        image = make_root_image(
            self.store,
            self.programs,
            root,
            arch,
            contents,
            erase_bytes=erase_bytes(root, arch),
        )
        own = self.kernel.config.get("CMDLINE", "")
        return boot_into(self.store, boot, root, image, builtin_cmdline=own)

    def _boot_command(self, closure: Closure, request: GuestRequest) -> str:
        """Return the command that boots such a guest by hand, as far as a command line can."""
        config = self.config
        same = replace(
            request,
            modules=None if closure.wanted == config.modules else closure.wanted,
            userland=None if config.guest.userland == "none" else config.guest.userland,
            root=None if config.root and config.root.where else config.root,
        )
        return quoted(["kernelvm", "boot", config.command_word, *same.command_line()])
