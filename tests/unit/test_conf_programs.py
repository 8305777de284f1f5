"""What is kept of a source's conf."""

from pathlib import Path

import pytest

from pytest_kernelvm.errors import HarnessError
from pytest_kernelvm.kernel.kconfig.conf_programs import install_conf_programs
from pytest_kernelvm.progress import Silent
from pytest_kernelvm.store.kinds import CONF_PROGRAMS
from pytest_kernelvm.store.store import Store
from tests.unit.test_store import disk_of


def test_answers_of_a_compiler_without_room_are_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store", Silent())

    def put(place: Path) -> None:
        def configure(build: Path, answers: Path) -> None:
            (build / "scripts/kconfig").mkdir(parents=True)
            (build / "scripts/kconfig/conf").write_text("a program")
            answers.mkdir()
            (answers / "0123").write_bytes(b"question\0answer")

        install_conf_programs(store, ["/source", "gcc 12"], place, place / "answers", configure)

    with disk_of("256k", tmp_path) as small:
        monkeypatch.setenv("TMPDIR", str(small))
        with pytest.raises(HarnessError, match=f"{small} is full") as full:
            put(tmp_path / "one")
        assert "TMPDIR" in full.value.evidence.next_step
        assert not list(store.root.glob(f"{CONF_PROGRAMS}/*"))
    monkeypatch.delenv("TMPDIR")
    put(tmp_path / "two")
    assert (tmp_path / "two/answers/0123").read_bytes() == b"question\0answer"
    assert (tmp_path / "two/scripts/kconfig/conf").read_text() == "a program"
