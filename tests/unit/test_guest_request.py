"""What a test may ask of its guest: checks, and all that comes from the one definition."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_type_hints

import pytest

from pytest_kernelvm.cli.guests import add_boot
from pytest_kernelvm.config.roots import Root
from pytest_kernelvm.modules.closure import Closure
from pytest_kernelvm.plugin.markers import guest_marker
from pytest_kernelvm.session.guest_options import GuestOptions
from pytest_kernelvm.session.guest_request import ARGUMENTS, GuestRequest, default_of


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"moduls": ["loop"]}, "unexpected keyword argument 'moduls'"),
        ({"modules": "loop"}, "modules is a list of names, not the text 'loop'"),
        ({"modules": b"loop"}, "modules is a list of names, not the text b'loop'"),
        ({"blacklist": "loop"}, "blacklist is a list of names, not the text 'loop'"),
        ({"blacklist": None}, "blacklist is a list of names, not None"),
        ({"modules": [1]}, "not names of modules: (1,)"),
        ({"modules": 1}, "not iterable"),
        ({"modules": iter(["loop"])}, "modules is read more than once"),
        ({"userland": "glibc"}, "userland is one of none, kmod, busybox, not 'glibc'"),
        ({"userland": ""}, "userland is one of none, kmod, busybox, not ''"),
        ({"root": "jffs2"}, "root is a Root, not 'jffs2'"),
        ({"external": ["mine"]}, "external is C by the name of the module, not ['mine']"),
        ({"external": {"mine": b""}}, "external is C by the name of the module; not 'mine': b''"),
        ({"options": "max_loop=3"}, "options is parameters by the name of the module, not"),
        ({"options": {"loop": 3}}, "options is parameters by the name of the module, as in"),
        ({"files": {"/x": "text"}}, "files is bytes by path; not '/x': 'text'"),
        ({"files": ["/x"]}, "files is bytes by path, not ['/x']"),
        ({"cmdline": ["quiet"]}, "cmdline is a text, not ['quiet']"),
        ({"cookie": "no"}, "cookie is True or False, not 'no'"),
        ({"shared_console": 1}, "shared_console is True or False, not 1"),
        ({"network": "tap"}, "network is one of user, outside, not 'tap'"),
        ({"network": True}, "network is a text, not True"),
        ({"boot_timeout_s": "30"}, "boot_timeout_s is a number of seconds, not '30'"),
        ({"boot_timeout_s": 0}, "boot_timeout_s is a number of seconds above 0, not 0"),
        ({"boot_timeout_s": True}, "boot_timeout_s is a number of seconds above 0, not True"),
        ({"boot_timeout_s": math.nan}, "boot_timeout_s is a number of seconds above 0, not nan"),
        ({"fresh": "booted"}, "fresh is one of restore, boot, share, not 'booted'"),
        (
            {"closure": 7},
            "unexpected keyword argument 'closure'; only calls such as boot_vm take",
        ),
        ({"clean": "yes"}, "clean is True or False, not 'yes'"),
    ],
)
def test_a_marker_with_a_wrong_argument(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TypeError, match=re.escape(complaint)):
        GuestRequest.from_marker(given)


def test_a_marker_with_right_arguments() -> None:
    root = Root(kind="jffs2")
    given = {"modules": ["loop"], "blacklist": {"dummy"}, "options": None, "files": None}
    assert GuestRequest.from_marker({**given, "root": root}) == GuestRequest(
        modules=("loop",), blacklist=("dummy",), root=root
    )
    known: dict[str, Any] = {"external": {"mine": "int x;"}, "files": {"/x": b""}, "clean": True}
    assert GuestRequest.from_marker({"boot_timeout_s": 3, **known}) == GuestRequest(
        boot_timeout_s=3, **known
    )


def test_the_options_of_a_call_go_before_the_marker() -> None:
    marked = GuestRequest.from_marker({"modules": ["loop"], "cmdline": "quiet", "clean": True})
    called = marked.with_options(modules=["dummy"], cookie=False)
    assert called == GuestRequest(modules=("dummy",), cmdline="quiet", clean=True, cookie=False)
    assert marked.with_options() == marked


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"moduls": ["loop"]}, "unexpected keyword argument 'moduls'"),
        ({"modules": "loop"}, "modules is a list of names, not the text 'loop'"),
        ({"closure": 7}, "closure is a Closure, not 7"),
        ({"fresh": "boot"}, "unexpected keyword argument 'fresh'; only the marker kernelvm"),
        ({"clean": True}, "unexpected keyword argument 'clean'; only the marker kernelvm"),
    ],
)
def test_a_call_with_a_wrong_argument(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(TypeError, match=re.escape(complaint)):
        GuestRequest().with_options(**given)


def test_the_keyword_arguments_of_calls_are_those_of_the_request() -> None:
    """Names, order and types.

    A call may give any iterable where the request has a tuple, and None for an empty mapping.
    """
    names = {"Closure": Closure, "Root": Root, "Mapping": Mapping}
    expected = {}
    for name, kind in get_type_hints(GuestRequest, localns=names).items():
        if ARGUMENTS[name].by_call:
            accepted = kind | None if default_of(name) is None else kind
            expected[name] = str(accepted).replace("tuple[str, ...]", str(Iterable[str]))
    written = {name: str(kind) for name, kind in get_type_hints(GuestOptions).items()}
    assert list(written.items()) == list(expected.items())


def test_the_marker_has_a_signature() -> None:
    assert guest_marker() == (
        "kernelvm(*, modules=None, userland=None, external=None, root=None, options=None, "
        "blacklist=(), files=None, cmdline='', cookie=True, shared_console=False, network='', "
        "boot_timeout_s=None, fresh=None, clean=False): the guest of this test"
    )


def test_the_command_line_of_a_request() -> None:
    request = GuestRequest(
        modules=("loop", "dummy"),
        userland="kmod",
        root=Root(kind="jffs2"),
        cmdline="quiet panic=1",
        cookie=False,
        network="link",
        options={"loop": "max_loop=3"},
    )
    assert request.command_line() == [
        "--modules=loop,dummy",
        "--userland=kmod",
        "--root=jffs2",
        "--cmdline=quiet panic=1",
        "--no-cookie",
        "--network=user",
    ]
    assert GuestRequest().command_line() == []


def test_kernelvm_boot_has_the_options_of_a_request() -> None:
    parser = argparse.ArgumentParser()
    add_boot(parser.add_subparsers())
    for verb in ("boot", "argv"):
        known = vars(parser.parse_args([verb, "malta-6.12"]))
        for name, argument in ARGUMENTS.items():
            assert (name in known) == (argument.option is not None)
        with pytest.raises(SystemExit):
            parser.parse_args([verb, "malta-6.12", "--network=link"])
