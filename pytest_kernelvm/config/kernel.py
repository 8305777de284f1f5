"""What a vm-config may say of its kernel: one row for each key."""

from __future__ import annotations

from dataclasses import replace

from pytest_kernelvm.arch.registry import IMAGE_TARGETS
from pytest_kernelvm.config.context import CellContext
from pytest_kernelvm.config.files import existing_file
from pytest_kernelvm.config.patches import PATCHES, Patch
from pytest_kernelvm.config.requests import (
    CONDITIONAL,
    FRAGMENTS,
    SYMBOLS,
    Conditional,
    Fragment,
    Requested,
    all_requests,
    conditions,
)
from pytest_kernelvm.config.sources import SOURCE, Source, default_source, source_as_written
from pytest_kernelvm.config.typed_yaml.expected import Flag, ListOf, PlacedText, Text, placed
from pytest_kernelvm.config.typed_yaml.mistakes import did_you_mean
from pytest_kernelvm.config.typed_yaml.rows import key, yaml_mapping
from pytest_kernelvm.config.versions import VERSION_PATTERN, VERSION_SHAPE
from pytest_kernelvm.errors import BadInput, Evidence

# The targets of `make help` that ask nothing and always make the same .config.
BASE_TARGETS = (
    "allnoconfig",
    "tinyconfig",
    "defconfig",
    "alldefconfig",
    "allmodconfig",
    "allyesconfig",
)

_VERSION = Text(doc="A kernel version such as 6.12.", pattern=VERSION_PATTERN, shape=VERSION_SHAPE)
_IMAGE = placed(
    "A make target.",
    allowed=IMAGE_TARGETS,
)


def _base_config(name: PlacedText, context: CellContext) -> str:
    """Return the base configuration: a make target's name or a file's path."""
    text = name.text
    if "/" in text or "." in text:
        return str(existing_file(name, context, "the base configuration"))
    if text not in BASE_TARGETS and not text.endswith("_defconfig"):
        raise BadInput(
            f"there is no base configuration {text!r}",
            Evidence(
                expected=f"{', '.join(BASE_TARGETS)}, NAME_defconfig, or a complete .config file "
                "with a dot or slash in its name",
                where=(str(name.place),),
                next_step=did_you_mean(text, BASE_TARGETS),
            ),
        )
    return text


def _images(names: tuple[PlacedText, ...], context: CellContext) -> tuple[str, ...]:
    arch = context.arch
    for name in names:
        if name.text not in arch.images:
            raise BadInput(
                f"{arch.name} has no image target {name.text!r}",
                Evidence(where=(str(name.place),), expected=f"one of {', '.join(arch.images)}"),
            )
    return tuple(dict.fromkeys(name.text for name in names)) or (arch.default_image,)


def _llvm(text: str, _context: CellContext) -> str:
    """Return the value of LLVM= for make (Documentation/kbuild/llvm.rst): 1, or a suffix."""
    return {"false": "", "true": "1"}.get(text, f"-{text}")


@yaml_mapping
class KernelConfig:
    """How one kernel is made.

    Attributes:
        version: What `make kernelversion` must begin with.
        source: Where the source comes from.
        base: A make target such as allnoconfig, or the path of a complete .config.
        fragments: Partial .config files.
        symbols: What the vm-config asks for, after what follows from built-in command line,
            cookie and patches.
        conditional: What is asked for only if other symbols are set.
        auto_modules: Whether each tristate that nobody names is m.
        prefer_builtin: Whether each tristate that nobody names is y.
        llvm: The value of make's LLVM=, empty for gcc.
        patches: Those that may be for this version, in order; the source's own version decides.
        images: Make targets of images; the first is booted, all are kept.
        release: What `uname -r` must be, empty for any release.
    """

    version: str = key(
        ListOf(doc="One version or several; each makes a cell.", item=_VERSION, one=_VERSION),
        convert=lambda _versions, context: context.version,
    )
    source: Source = key(
        SOURCE,
        convert=source_as_written,
        default_from=lambda _written, context: default_source(context),
        default_text="Debian's package of the version",
    )
    base: str = key(
        placed(
            "A make target (allnoconfig, defconfig, …) or a complete .config file.",
            pattern=r".+",
            shape="a make target or a path",
        ),
        convert=_base_config,
        default="allnoconfig",
    )
    fragments: tuple[Fragment, ...] = key(FRAGMENTS, default=())
    symbols: tuple[Requested, ...] = key(
        SYMBOLS, convert=lambda symbols, _context: all_requests(symbols), default=()
    )
    conditional: tuple[Conditional, ...] = key(CONDITIONAL, convert=conditions, default=())
    auto_modules: bool = key(
        Flag(doc="Answer m to every tristate that nobody names."), default=False
    )
    prefer_builtin: bool = key(
        Flag(
            doc="Answer y to every tristate that nobody names; with auto_modules: keep y where "
            "that is the default."
        ),
        default=False,
    )
    llvm: str = key(
        Text(
            doc="Compile with clang and lld: true, or their version, such as 16.",
            pattern=r"true|false|[0-9]+",
            shape="true, false or a version such as 16",
        ),
        name="LLVM",
        convert=_llvm,
        default="",
        default_text="false, which is gcc",
    )
    patches: tuple[Patch, ...] = key(PATCHES, default=())
    images: tuple[str, ...] = key(
        ListOf(
            doc="Make targets of images; the first is booted. vmlinux is always kept.",
            item=_IMAGE,
            one=_IMAGE,
        ),
        name="image",
        convert=_images,
        default_from=lambda _written, context: (context.arch.default_image,),
        default_text="the architecture's first",
    )
    release: str = key(
        Text(
            doc="What `uname -r` must be; a build that differs is stopped.",
            pattern=r"[A-Za-z0-9.+_~-]+",
            shape="a release such as 6.12.30",
        ),
        default="",
        default_text="any",
    )

    @property
    def image(self) -> str:
        """The make target of the image that is booted."""
        return self.images[0]

    def patches_for(self, version: str) -> tuple[Patch, ...]:
        """Return the patches that are for the source's own version.

        Args:
            version: That of the source, with a suffix such as -rc1 if it has one.
        """
        return tuple(patch for patch in self.patches if patch.versions.includes(version))

    @property
    def features(self) -> tuple[str, ...]:
        """The features of all patches, also of those that the source's version may rule out."""
        return tuple(dict.fromkeys(name for patch in self.patches for name in patch.features))

    def features_for(self, version: str) -> tuple[str, ...]:
        """Return the features of the patches that are for the source's own version.

        Args:
            version: That of the source, with a suffix such as -rc1 if it has one.
        """
        return replace(self, patches=self.patches_for(version)).features
