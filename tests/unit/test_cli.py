"""The command `kernelvm`, as far as nothing is built or booted."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_kernelvm import __version__
from pytest_kernelvm.cli.main import main
from pytest_kernelvm.config.schema import json_schema
from pytest_kernelvm.errors import Verdict
from pytest_kernelvm.process import run
from tests.unit.test_gc import fill, named
from tests.unit.test_modules_tree import make_tree

VERBS = (
    "doctor",
    "list",
    "build",
    "boot",
    "argv",
    "replay",
    "attach",
    "export",
    "kept",
    "closure",
    "modules",
    "services",
    "config",
    "module",
    "schema",
    "store",
    "clean",
)
MADE_KINDS = ("kernels", "requests", "guests", "initramfs", "failures", "logs", "tmp")
SCREEN_LINES = 24


@dataclass(frozen=True)
class CommandResult:
    """The exit status of a command and what it printed."""

    status: int
    output: str
    errors: str


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with vm-configs and an empty store, in which the command is given."""
    directory = tmp_path / "project"
    (directory / "vm-configs").mkdir(parents=True)
    (directory / "vm-configs" / "malta.yaml").write_text(
        "arch: mips\n"
        'kernel: {version: ["0.98", "0.99"], source: {debian: "linux-source-{version}"}}\n'
    )
    monkeypatch.chdir(directory)
    monkeypatch.setenv("KERNELVM_STORE", str(tmp_path / "store"))
    return directory


@dataclass(frozen=True)
class Command:
    """Gives the command in this process."""

    capsys: pytest.CaptureFixture[str]

    def __call__(self, *argv: str | Path) -> CommandResult:
        status = main([str(word) for word in argv])
        captured = self.capsys.readouterr()
        return CommandResult(status, captured.out, captured.err)


@pytest.fixture
def kernelvm(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


def child(program: str, *argv: str) -> CommandResult:
    """Run Python in a process of its own, its standard output buffered as in a pipeline."""
    done = run(
        [sys.executable, "-c", program, *argv],
        env={"PYTHONUNBUFFERED": ""},
        timeout_s=60,
        check=False,
    )
    return CommandResult(done.status, done.stdout, done.stderr)


def assert_refused(
    said: CommandResult, *words: str, status: int = Verdict.BAD_INPUT.exit_code
) -> None:
    assert said.status == status
    assert said.output == ""
    assert said.errors.startswith("kernelvm: ")
    assert "Traceback" not in said.errors
    assert len(said.errors.splitlines()) <= SCREEN_LINES
    for text in words:
        assert text in said.errors


# Help


def without_spaces(text: str) -> str:
    """Return a text as if argparse had not broken its lines."""
    return "".join(text.split())


def test_help_names_verbs_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    shown = [line.split()[0] for line in told.splitlines() if line.startswith("    ")]
    assert [word for word in shown if word in VERBS] == list(VERBS)
    codes = ", ".join(f"{verdict.exit_code} {verdict.label}" for verdict in Verdict)
    assert without_spaces(f"exit codes: {codes}, 130 interrupted") in without_spaces(told)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([verb, "--help"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: kernelvm {verb} ")


@pytest.mark.parametrize(
    "argv",
    [[], ["biuld"], ["closure"], ["boot"], ["list", "extra"], ["config"], ["config", "explain"]],
)
def test_misuse_shows_the_usage(argv: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(argv)
    assert end.value.code == Verdict.BAD_INPUT.exit_code
    assert capsys.readouterr().err.startswith("usage: kernelvm ")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"kernelvm {__version__}\n"


# schema, list


def test_schema_is_json(kernelvm: Command) -> None:
    said = kernelvm("schema")
    assert said.status == 0
    assert json.loads(said.output) == json_schema()
    assert said.errors == ""


@pytest.mark.usefixtures("project")
def test_list_says_why_a_cell_cannot_be_built(kernelvm: Command) -> None:
    said = kernelvm("list")
    assert said.status == 0
    assert said.output.splitlines() == [
        f"malta-{version}  mips      cannot be built: "
        f"the Debian package linux-source-{version} is not installed"
        for version in ("0.98", "0.99")
    ]


def test_list_without_vm_configs(kernelvm: Command, tmp_path: Path) -> None:
    assert_refused(
        kernelvm("--configs", tmp_path, "list"), f"bad-input: no vm-configs in {tmp_path}"
    )


def test_list_with_a_mistake_in_yaml(kernelvm: Command, project: Path) -> None:
    (project / "vm-configs" / "bad.yaml").write_text("arch: mpis\nkernel: {version: 6.1}\n")
    assert_refused(kernelvm("list"), "vm-configs/bad.yaml:1:7", "did you mean 'mips'?")


# config


def test_config_diff_of_files(kernelvm: Command, project: Path) -> None:
    (project / "one.config").write_text("CONFIG_A=y\n# CONFIG_B is not set\n")
    (project / "other.config").write_text("CONFIG_A=m\nCONFIG_C=0x10\n")
    said = kernelvm("config", "diff", "one.config", "other.config")
    assert (said.status, said.errors) == (0, "")
    assert said.output.splitlines() == [
        "changed with others, or by default (2)",
        "  A  y -> m",
        "  C  n -> 0x10",
    ]


def test_config_diff_of_what_is_no_text(kernelvm: Command, project: Path) -> None:
    (project / "a").write_bytes(b"\xff\xfe")
    assert_refused(kernelvm("config", "diff", "a", "a"), "cannot read a: ")
    assert_refused(kernelvm("config", "diff", "nothing", "a"), "called 'nothing'")


def test_config_diff_of_a_version_asks_for_the_vm_config(kernelvm: Command, project: Path) -> None:
    (project / "vm-configs" / "other.yaml").write_text("arch: mips\nkernel: {version: 0.99}\n")
    assert_refused(
        kernelvm("config", "diff", "0.98", "0.99"),
        "0.98 of which vm-config?",
        "expected: --config with one of malta, other",
    )
    assert_refused(
        kernelvm("config", "diff", "0.97", "malta-0.99"),
        "linux-source-0.97 is not installed",
        status=Verdict.TOOL_MISSING.exit_code,
    )


@pytest.mark.usefixtures("project")
def test_config_edit_needs_a_terminal(kernelvm: Command) -> None:
    assert_refused(kernelvm("config", "edit", "malta-0.98"), "config edit needs a terminal")


@pytest.mark.usefixtures("project")
def test_config_explain_needs_a_source(kernelvm: Command) -> None:
    assert_refused(
        kernelvm("config", "explain", "malta-0.98", "NET"),
        "linux-source-0.98 is not installed",
        status=Verdict.TOOL_MISSING.exit_code,
    )


# Cells


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("verb", ["boot", "argv", "closure"])
def test_a_verb_for_one_cell_refuses_a_config_with_several(verb: str, kernelvm: Command) -> None:
    words = ["closure", "loop", "--config"] if verb == "closure" else [verb]
    assert_refused(
        kernelvm(*words, "malta"),
        "malta has several cells",
        "expected: one of malta-0.98, malta-0.99",
    )


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("verb", ["boot", "argv", "build", "closure"])
def test_an_unknown_cell_is_told_with_a_similar_name(verb: str, kernelvm: Command) -> None:
    words = ["closure", "loop", "--config"] if verb == "closure" else [verb]
    assert_refused(
        kernelvm(*words, "matla-0.99"),
        "no vm-config or cell is called 'matla-0.99'",
        "did you mean 'malta-0.99'?",
    )


def test_a_missing_source_has_its_own_exit_code(kernelvm: Command, project: Path) -> None:
    assert_refused(
        kernelvm("build", "malta-0.99"),
        "tool-missing: the Debian package linux-source-0.99 is not installed",
        f"where: {Path('vm-configs', 'malta.yaml')}:2:",
        "next: apt-get install linux-source-0.99",
        status=Verdict.TOOL_MISSING.exit_code,
    )
    assert not (project.parent / "store").exists()


# closure


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(
        tmp_path,
        {"nft_ct": ["nf_conntrack", "nf_tables"], "nf_tables": [], "nf_conntrack": [], "other": []},
        builtin=["fuse"],
    ).directory


def test_closure_as_a_tree(kernelvm: Command, tree: Path) -> None:
    said = kernelvm("closure", "nft-ct", "--tree", tree)
    assert said.status == 0
    names = [line.split()[0] for line in said.output.splitlines()]
    assert names[:3] == ["nft_ct", "nf_tables", "nf_conntrack"]
    assert "other" not in names
    assert said.errors == ""


def test_closure_as_a_list(kernelvm: Command, tree: Path) -> None:
    said = kernelvm("closure", "nft_ct", "fuse", "--tree", tree, "--format=list")
    assert said == CommandResult(0, "nf_tables\nnf_conntrack\nnft_ct\n", "")


def test_closure_as_json(kernelvm: Command, tree: Path) -> None:
    said = kernelvm("closure", "nft_ct", "--tree", tree, "--format=json")
    assert said.status == 0
    found = json.loads(said.output)
    assert [module["name"] for module in found["modules"]] == [
        "nf_tables",
        "nf_conntrack",
        "nft_ct",
    ]


def test_closure_as_dot(kernelvm: Command, tree: Path) -> None:
    said = kernelvm("closure", "nft_ct", "--tree", tree, "--format=dot")
    assert said.status == 0
    assert said.output.startswith("digraph ")
    assert '"nft_ct" -> "nf_tables"' in said.output
    assert '"other"' not in said.output


def test_closure_as_a_shell_script(kernelvm: Command, tree: Path, tmp_path: Path) -> None:
    """The script runs, with an insmod that only tells."""
    said = kernelvm("closure", "nft_ct", "--tree", tree, "--format=sh")
    assert said.status == 0
    script = tmp_path / "load.sh"
    script.write_text('insmod() { echo "$@"; }\n' + said.output)
    loaded = run(["sh", script], timeout_s=60).stdout.split()
    assert [Path(file).stem for file in loaded] == ["nf_tables", "nf_conntrack", "nft_ct"]
    assert all(Path(file).is_file() for file in loaded)


def test_closure_of_an_unknown_module(kernelvm: Command, tree: Path) -> None:
    assert_refused(
        kernelvm("closure", "nf_tabels", "--tree", tree), "nf_tabels", "did you mean nf_tables?"
    )


def test_closure_of_a_module_that_may_be_missing(kernelvm: Command, tree: Path) -> None:
    argv = ("closure", "other", "absent", "--tree", tree, "--format=list")
    assert_refused(kernelvm(*argv), "absent")
    said = kernelvm(*argv, "--allow-missing", "absent")
    assert (said.status, said.output) == (0, "other\n")


def test_closure_in_something_else(kernelvm: Command, tmp_path: Path) -> None:
    assert_refused(
        kernelvm("closure", "loop", "--tree", tmp_path), f"{tmp_path} is not a module tree"
    )


def test_closure_in_a_tree_and_in_a_cell_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["closure", "loop", "--tree", "x", "--config", "malta"])
    assert end.value.code == Verdict.BAD_INPUT.exit_code
    assert "not allowed with" in capsys.readouterr().err


# clean


@pytest.mark.usefixtures("project")
def test_clean_of_an_empty_store(kernelvm: Command, tmp_path: Path) -> None:
    assert kernelvm("clean") == CommandResult(0, "", "")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("named_by", ["variable", "option"])
def test_clean_keeps_sources_unless_asked(
    named_by: str, kernelvm: Command, project: Path, tmp_path: Path
) -> None:
    store = tmp_path / ("store" if named_by == "variable" else "other")
    option = [] if named_by == "variable" else ["--store", f"../{store.name}"]
    for kind in (*MADE_KINDS, "sources"):
        (store / kind / "digest").mkdir(parents=True)
    # Every store has it; a directory without is somebody else's.
    (store / "locks").mkdir()
    (store / "mine").write_text("not of the store")
    said = kernelvm(*option, "clean")
    assert said.status == 0
    assert sorted(said.output.splitlines()) == sorted(
        f"removed {project / option[-1] / kind if option else store / kind}" for kind in MADE_KINDS
    )
    assert sorted(path.name for path in store.iterdir()) == ["locks", "mine", "sources"]
    assert kernelvm(*option, "clean", "--sources").status == 0
    assert sorted(path.name for path in store.iterdir()) == ["locks", "mine"]


# As a process

COMMAND = "import sys; from pytest_kernelvm.cli.main import main; sys.exit(main())"


def test_the_process_ends_with_the_exit_code_of_the_verdict(tmp_path: Path) -> None:
    said = child(COMMAND, "--configs", str(tmp_path), "build")
    assert_refused(said, f"bad-input: no vm-configs in {tmp_path}")


def test_a_reader_that_closes_the_pipe_is_no_error() -> None:
    """As in `kernelvm schema | head -1`; what stays in the buffer must not complain at exit."""
    closed_pipe = "import os; ours, theirs = os.pipe(); os.close(ours); os.dup2(theirs, 1)\n"
    assert child(closed_pipe + COMMAND, "schema") == CommandResult(0, "", "")


# Sources


@pytest.mark.usefixtures("project")
def test_a_source_of_no_known_kind_is_refused(kernelvm: Command) -> None:
    said = kernelvm("build", "--source", "svn:linux")
    assert said.status == Verdict.BAD_INPUT.exit_code
    assert "'svn:linux' names no source" in said.errors
    assert "tree:" in said.errors


def test_a_source_without_a_kernel_is_refused(project: Path, kernelvm: Command) -> None:
    (project / "hello").mkdir()
    (project / "hello" / "hello.c").write_text("")
    said = kernelvm("build", "--source", "tree:hello", "malta-0.99")
    assert said.status == Verdict.BAD_INPUT.exit_code
    assert "is not a kernel tree" in said.errors


@pytest.mark.usefixtures("project")
def test_a_prebuilt_kernel_that_does_not_exist_is_refused(kernelvm: Command) -> None:
    said = kernelvm("boot", "--prebuilt", "nowhere")
    assert said.status == Verdict.BAD_INPUT.exit_code
    assert "the prebuilt kernel" in said.errors
    assert "does not exist" in said.errors


# The store


def test_store_ls_and_gc(kernelvm: Command, tmp_path: Path) -> None:
    root = tmp_path / "store"
    fill(root, "new", "old")
    said = kernelvm("--store", root, "store", "ls")
    assert said.status == 0
    assert [line.split()[:2] for line in said.output.splitlines()[:2]] == [
        ["kernels", named("new")[:16]],
        ["kernels", named("old")[:16]],
    ]
    said = kernelvm("--store", root, "store", "gc", "--older-than", "12h")
    assert said.status == 0
    assert f"removed {root}/kernels/{named('old')}" in said.output
    assert "1 removed" in said.output


def test_store_gc_without_a_limit_is_refused(kernelvm: Command, tmp_path: Path) -> None:
    said = kernelvm("--store", tmp_path, "store", "gc")
    assert said.status == Verdict.BAD_INPUT.exit_code
    assert "--max-size 20G" in said.errors
    with pytest.raises(SystemExit):
        kernelvm("--store", tmp_path, "store", "gc", "--max-size", "much")


def test_store_verify(kernelvm: Command, tmp_path: Path) -> None:
    root = tmp_path / "store"
    fill(root, "one")
    assert kernelvm("--store", root, "store", "verify") == CommandResult(0, "all is whole\n", "")
    (root / "kernels" / named("one") / "below/image").chmod(0o644)
    (root / "kernels" / named("one") / "below/image").write_text("short")
    said = kernelvm("--store", root, "store", "verify")
    assert said.status == Verdict.HARNESS_ERROR.exit_code
    assert "5 bytes instead of" in said.output
    said = kernelvm("--store", root, "store", "verify", "--remove")
    assert said.status == 0
    assert not (root / "kernels" / named("one")).exists()


# What failed tests left


@pytest.mark.parametrize("verb", ["replay", "attach"])
def test_no_bundle_is_refused(verb: str, kernelvm: Command, project: Path, tmp_path: Path) -> None:
    assert_refused(kernelvm(verb, "nosuch"), "no bundle is called 'nosuch'", "kernelvm kept")
    (project / "bundle.json").write_text("{}")
    assert_refused(kernelvm(verb, project), f"{project} is not a complete bundle", "format")
    (project / "bundle.json").write_text('{"format": 0, "guests": []}')
    assert_refused(kernelvm(verb, project), "a bundle of another version", "seen: format 0")
    for name, words in (
        ("it.zip", "has no suffix that names its compression"),
        ("it.tar.gz", "cannot be unpacked"),
    ):
        file = tmp_path / name
        file.write_bytes(b"nonsense")
        assert_refused(kernelvm(verb, file), words)


def test_kept_prints_nothing_where_no_test_failed(kernelvm: Command, project: Path) -> None:
    assert (project / "vm-configs").is_dir()
    assert kernelvm("kept") == CommandResult(0, "", "")
    assert kernelvm("kept", "--end") == CommandResult(0, "", "")
    assert_refused(kernelvm("kept", "--end", "nosuch"), "no bundle is called 'nosuch'")
