"""A cell made ready: its kernel, programs, closures and initramfs, and guests that boot them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path

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
from pytest_kernelvm.kernel.out_of_tree.inline_sources import tree_with
from pytest_kernelvm.modules.closure import Closure, resolve_closure
from pytest_kernelvm.modules.modprobe_d import ModprobeD
from pytest_kernelvm.modules.names import normalise
from pytest_kernelvm.modules.tree import ModuleTree
from pytest_kernelvm.process import quoted
from pytest_kernelvm.store.intact import require_intact, require_intact_below
from pytest_kernelvm.store.store import Store
from pytest_kernelvm.vm.agent.services import ServiceCatalogue
from pytest_kernelvm.vm.bootpath.root import boot_into, erase_bytes
from pytest_kernelvm.vm.machine.vm import Bootable
from pytest_kernelvm.vm.qemu.argv import Boot
from pytest_kernelvm.vm.qemu.snapshot import require_intact_boot
from pytest_kernelvm.vm.verdict.calibration import calibration_of
from pytest_kernelvm.vm.verdict.deadlines import Calibration, Limits


class Cell:
    """One cell with all that it takes to boot it, each made when first asked for.

    config: its description. store: where what is built is kept.
    external: modules beside the kernel's own, C by name.
    """

    def __init__(
        self, config: CellConfig, store: Store, *, external: Mapping[str, str] | None = None
    ) -> None:
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
        """The kernel's modules, with what the vm-config tells modprobe; external ones are built."""
        configured = self.config.modprobe
        modprobe_d = ModprobeD(
            options=tuple((normalise(name), text) for name, text in configured.options),
            blacklist=tuple(normalise(name) for name in configured.blacklist),
        )
        directory = self.kernel.module_tree
        if self.external:
            directory = tree_with(self.store, self.config, self.kernel, self.external)
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
        """Return this cell with another userland, external modules or root; None leaves them."""
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

        source: C, without includes. Raises BuildFailed with the compiler's words.
        """
        with tempfile.TemporaryDirectory(prefix="kernelvm-") as directory:
            text, program = Path(directory, "program.c"), Path(directory, "program")
            text.write_text(source)
            compile_program(self.kernel, text, program)
            return program.read_bytes()

    def closure(self, modules: Iterable[str] | None = None) -> Closure:
        """Return the closure of some modules, by default those of the vm-config.

        Raises BadInput as `resolve_closure` does; the vm-config says what may be missing.
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
        """Return the initramfs of a closure, by default that of the vm-config's modules.

        options: module parameters, added to the vm-config's. files: further files by path.
        """
        entries = self._guest_entries(closure, options, blacklist, files)
        chosen = self.closure() if closure is None else closure
        return pack(self.store, entries, compressed=not (chosen.modules or self.userland))

    def _guest_entries(
        self,
        closure: Closure | None,
        options: Mapping[str, str] | None,
        blacklist: Iterable[str],
        files: Mapping[str, bytes] | None,
    ) -> list[Entry]:
        chosen = self.closure() if closure is None else closure
        self._require_intact(chosen)
        return guest_entries(
            self.programs,
            tree=self.tree,
            closure=chosen,
            modprobe=self._modprobe(options, blacklist),
            files=files or {},
            userland=self.userland,
        )

    def _require_intact(self, closure: Closure) -> None:
        """Compare what is packed for a guest with what the store noted of it."""
        programs = self.programs
        require_intact((programs.agent, programs.modprobe, programs.preinit, programs.activate))
        require_intact(module.path for module in closure.modules)
        if self.userland:
            require_intact_below(self.userland.root)

    def _modprobe(
        self, options: Mapping[str, str] | None = None, blacklist: Iterable[str] = ()
    ) -> ModprobeConfig:
        configured = self.config.modprobe
        return ModprobeConfig(
            options=(*configured.options, *(options or {}).items()),
            blacklist=(*configured.blacklist, *blacklist),
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

        cmdline: words added to the vm-config's. cookie: whether the kernel heeds that line.
        shared_console: the agent talks on the console, as where there is no second port.
        network: as in Boot.
        """
        shared_console = shared_console or self.kernel.shared_console
        words = f"{cmdline} {SHARED_CONSOLE}".strip() if shared_console else cmdline
        fixed = bool(self.config.cookie) and not cookie
        room = self.config.arch.fixed_initramfs
        if fixed and room and initramfs and initramfs.size_bytes > room.size_bytes:
            raise BadInput(
                f"the initramfs has {initramfs.size_bytes} bytes, and without the cookie "
                f"{self.config.id} finds {room.size_bytes} bytes at a fixed address",
                Evidence(next_step="ask for fewer modules in this test"),
            )
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

    def bootable(
        self,
        *,
        modules: Iterable[str] | None = None,
        closure: Closure | None = None,
        options: Mapping[str, str] | None = None,
        blacklist: Iterable[str] = (),
        files: Mapping[str, bytes] | None = None,
        cmdline: str = "",
        cookie: bool = True,
        shared_console: bool = False,
        network: str = "",
        boot_timeout_s: float | None = None,
    ) -> Bootable:
        """Return what a guest is made of.

        modules or closure: what its initramfs holds. network: as in Boot; with one, `modules` are
        taken with those of the card's driver. boot_timeout_s: by default the vm-config's.
        Raises DamagedStore if a file of it is not what was put into the store.
        """
        if network and closure is None:
            wanted = self.config.modules if modules is None else modules
            modules = dict.fromkeys((*wanted, *self.config.arch.network_modules))
        chosen = closure if closure is not None else self.closure(modules)
        root = self.config.root
        if root:
            initramfs = self._preinit(root)
        else:
            initramfs = self.initramfs(chosen, options=options, blacklist=blacklist, files=files)
        boot = self.boot(
            initramfs,
            cmdline=cmdline,
            cookie=cookie,
            shared_console=shared_console,
            network=network,
        )
        if root:
            contents = self._guest_entries(chosen, options, blacklist, files)
            boot = self._into(root, boot, contents)
        require_intact_boot(boot)
        timeouts = self.config.timeouts
        return Bootable(
            label=self.config.id,
            boot=boot,
            abi=self.programs.abi,
            terminal=self.programs.terminal,
            limits=Limits(
                boot_s=timeouts.boot_s if boot_timeout_s is None else boot_timeout_s,
                command_s=timeouts.command_s,
                calibration=self.calibration,
            ),
            by_hand=self._by_hand(chosen, cmdline, cookie, network),
            services=self.services,
        )

    def _preinit(self, root: Root) -> Initramfs:
        """Return the initramfs that leads into a root."""
        closure = resolve_closure(self.tree, root.modules, allow_empty=True)
        self._require_intact(closure)
        entries = preinit_entries(
            self.programs,
            tree=self.tree,
            closure=closure,
            modprobe=self._modprobe(),
            root=root,
        )
        return pack(self.store, entries, compressed=False)

    def _into(self, root: Root, boot: Boot, contents: Iterable[Entry]) -> Boot:
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

    def _by_hand(self, closure: Closure, cmdline: str, cookie: bool, network: str) -> str:
        argv = ["kernelvm", "boot", self.config.command_word]
        if self.config.guest.userland != "none":
            argv.append(f"--userland={self.config.guest.userland}")
        if self.config.root and not self.config.root.where:
            argv.append(f"--root={self.config.root.kind}")
        if closure.wanted != self.config.modules:
            argv.append(f"--modules={','.join(closure.wanted)}")
        if cmdline:
            argv.append(f"--cmdline={cmdline}")
        if not cookie:
            argv.append("--no-cookie")
        if network:
            argv.append(f"--network={network if network != 'link' else 'user'}")
        return quoted(argv)
