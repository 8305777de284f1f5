"""The documentation, as far as nothing is run: its blocks, links and generated pages."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

import pytest_kernelvm
from docs.generate.__main__ import generated_pages
from tests.documentation import (
    COMMANDS,
    DOCS,
    FOLLOWED,
    PAGES,
    ROOT,
    Block,
    blocks,
    pattern,
    steps,
)

# How many blocks of each page no test runs; each has its reason in the page.
NOT_RUN = {
    "README.md": 1,
    "docs/tutorial.md": 3,
    "docs/how-to/boot-path.md": 2,
    "docs/how-to/distribution-kernel.md": 1,
    "docs/how-to/hang.md": 2,
    "docs/how-to/my-tree.md": 3,
    "docs/how-to/new-architecture.md": 2,
    "docs/how-to/resolve-modules.md": 2,
}
_LINK = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)")


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("file", generated_pages(), ids=lambda file: file.name)
def test_a_generated_page_is_up_to_date(file: Path) -> None:
    assert file.read_text() == generated_pages()[file], "`make reference` writes it"


def test_every_public_name_is_on_the_page_of_the_api() -> None:
    text = (DOCS / "reference" / "python-api.md").read_text()
    shown = re.findall(r"^::: pytest_kernelvm\.(\w+)$", text, re.M)
    assert shown == sorted(pytest_kernelvm.__all__)


def test_what_is_not_run_is_counted() -> None:
    counts = Counter(
        name(page) for page in PAGES for block in blocks(page.read_text()) if block.reason
    )
    assert dict(counts) == NOT_RUN


@pytest.mark.parametrize("page", FOLLOWED, ids=name)
def test_every_block_has_a_language(page: Path) -> None:
    text = page.read_text()
    assert [block.line for block in blocks(text) if not block.language] == []
    assert len([*blocks(text)]) * 2 == len(re.findall(r"^ *```", text, re.M))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_stand_on_pages_that_are_followed(page: Path) -> None:
    lines = [block.line for block in blocks(page.read_text()) if block.language in COMMANDS]
    assert page in FOLLOWED or lines == []


def test_the_example_of_a_fake_guest_passes(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = (block for block in blocks((DOCS / "architecture.md").read_text()) if block.title)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    pytester.makepyfile(test_my_fault=example.text)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=2)


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md"])
def test_the_links_outside_of_the_site_lead_somewhere(file: str) -> None:
    targets = _LINK.findall((ROOT / file).read_text())
    assert targets
    for path, anchor in targets:
        target = ROOT / (path or file)
        assert target.exists(), path
        assert not anchor or anchor in anchors(target.read_text()), f"{path}#{anchor}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120


def anchors(page: str) -> list[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page, re.M)
    return [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings]


PAGE = """\
Type this:

<!-- status: 3 -->

```console
$ kernelvm list
malta-6.12  mips  ...
...
last line
$ kernelvm build \\
>   nosuch
```

<!-- not run: installs packages -->

```sh
make setup
```

- in a list:

  ```python title="test_it.py"
  def test_it():
      pass
  ```
"""


def test_blocks_are_found() -> None:
    console, not_run, file = blocks(PAGE)
    assert (console.language, console.status, console.reason, console.line) == ("console", 3, "", 5)
    assert (not_run.reason, not_run.status) == ("installs packages", 0)
    assert (file.title, file.text, file.reason) == ("test_it.py", "def test_it():\n    pass\n", "")


def test_commands_and_their_output_are_told_apart() -> None:
    first, second = steps(next(blocks(PAGE)))
    assert (first.command, first.status) == ("kernelvm list", 0)
    assert (second.command, second.status) == ("kernelvm build \\\n  nosuch", 3)
    assert second.printed == ""
    assert re.fullmatch(first.printed, "malta-6.12  mips  built\nmore\nlast line\n")
    assert re.fullmatch(first.printed, "malta-6.12  mips  not\nlast line\n")
    assert not re.fullmatch(first.printed, "malta-6.12  mips  built\nlast line\nmore\n")


def test_commands_without_prompts_are_one_step() -> None:
    block = Block(language="sh", title="", text="a\nb\n", status=0, reason="", line=1)
    assert [step.command for step in steps(block)] == ["a\nb\n"]


@pytest.mark.parametrize(
    ("shown", "printed", "matches"),
    [
        (["a.b"], "a.b\n", True),
        (["a.b"], "axb\n", False),
        (["took ... s"], "took 1.5 s\n", True),
        (["took ... s"], "took 1.5\ns\n", False),
        (["...", "b"], "b\n", True),
        (["a", "..."], "a\nb\nc\n", True),
        (["a"], "a\nb\n", False),
    ],
)
def test_what_is_shown_is_compared_with_what_is_printed(
    shown: list[str], printed: str, matches: bool
) -> None:
    assert bool(re.fullmatch(pattern(shown), printed)) == matches
