"""pytest's rootdir and ini file, where an option of the plugin has its value behind a space.

pytest looks for both before it knows the options of plugins. In `--kernelvm-store DIR` it takes
the directory for a path of tests, and looks for its ini file there. This module finds the right
ones and repeats what pytest has done since. Two things cannot be undone: the effects of `-p` and
`required_plugins` in the wrong ini file, and a `-p` of the command line that fails because only
the `pythonpath` of the right ini file finds its plugin.
Source: _pytest/config/__init__.py, Config.parse (before pytest 9: _initini and _preparse).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import pytest

# The private parts of pytest's Config that this module uses.
_INSIDES = (
    *("_rootpath", "_inipath", "_inicache", "_parser", "option", "known_args_namespace"),
    *("_validate_args", "_checkversion", "_validate_plugins"),
)


def restore_rootdir(config: pytest.Config, args: list[str], options: Sequence[str]) -> None:
    """Give pytest the rootdir and ini file that it would have found, had it known the options.

    Args:
        config: pytest's configuration, before the initial conftests are loaded.
        args: All arguments, those of the ini file first. They become those of the right ini file.
        options: The plugin's options that have a value.

    Raises:
        UsageError: This version of pytest has other internals, so that nothing can be corrected.
    """
    inside: Any = config
    of_ini = len(config.getini("addopts"))
    given = args[of_ini:]
    if not any(arg in options for arg in given):
        return
    try:
        found = _determined(inside, given)
    except (ImportError, AttributeError, KeyError):
        option = next(arg for arg in given if arg in options)
        raise pytest.UsageError(
            f"write {option}=VALUE: pytest takes a value behind a space for a path of tests and "
            "looks for its ini file there"
        ) from None
    if found[:2] != (config.rootpath, config.inipath):
        _begin_from(inside, args, given, found)


def _determined(config: Any, given: Sequence[str]) -> tuple[Any, ...]:
    """Return rootdir, ini file and what is in it, as pytest finds them for arguments."""
    from _pytest.config.findpaths import determine_setup

    for name in _INSIDES:
        getattr(config, name)
    known = config._parser.parse_known_args(given, namespace=copy.copy(config.option))
    possible = {
        "inifile": known.inifilename,
        "override_ini": known.override_ini,
        "args": known.file_or_dir,
        "rootdir_cmd_arg": known.rootdir or None,
        "invocation_dir": config.invocation_params.dir,
    }
    wanted = inspect.signature(determine_setup).parameters
    return tuple(determine_setup(**{name: possible[name] for name in wanted}))


def _begin_from(config: Any, args: list[str], given: list[str], found: tuple[Any, ...]) -> None:
    """Do again what pytest did with the wrong ini file; plugins of its addopts stay loaded."""
    if hasattr(config, "_unconfigure_python_path"):
        config._unconfigure_python_path()
    config._rootpath, config._inipath = found[:2]
    setattr(config, "_inicfg" if hasattr(config, "_inicfg") else "inicfg", found[2])
    if len(found) > 3:
        config._ignored_config_files = found[3]
    config._inicache.clear()
    config._parser.extra_info["rootdir"] = str(config.rootpath)
    config._parser.extra_info["inifile"] = str(config.inipath)
    args[:] = [*config._validate_args(config.getini("addopts"), "via addopts config"), *given]
    _parse(config, args)
    config._checkversion()
    if hasattr(config, "_configure_python_path"):
        config._configure_python_path()
    config.pluginmanager.consider_preparse(args, exclude_only=False)
    _parse(config, args)
    config._validate_plugins()
    known = config.known_args_namespace
    if known.confcutdir is None:
        known.confcutdir = str(config.inipath.parent if config.inipath else config.rootpath)


def _parse(config: Any, args: Sequence[str]) -> None:
    config.known_args_namespace = config._parser.parse_known_args(
        args, namespace=copy.copy(config.option)
    )
    if hasattr(config, "_inicfg") and config.known_args_namespace.override_ini:
        from _pytest.config.findpaths import parse_override_ini

        config._inicfg.update(parse_override_ini(config.known_args_namespace.override_ini))
        config._inicache.clear()
