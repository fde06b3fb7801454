"""Folders appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from predictor.errors import InvalidRequest
from predictor.files import needs_place, whole_folder


def fill(out: Path) -> None:
    with whole_folder(out, last="last") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("new")
        (folder / "b").write_text("new")
        (folder / "last").write_text("new")


@pytest.mark.parametrize("kind", ["absent", "empty", "in folders that are absent"])
def test_a_folder_takes_a_free_place(kind: str, tmp_path: Path) -> None:
    out = tmp_path / ("x/y/out" if "folders" in kind else "out")
    if kind == "empty":
        out.mkdir()
    needs_place(out)
    fill(out)
    assert {path.name for path in out.rglob("*")} == {"sub", "a", "b", "last"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_what_a_folder_holds_already_stays(tmp_path: Path) -> None:
    (tmp_path / "out" / "sub").mkdir(parents=True)
    for name in ("README.md", "sub/c", "b"):
        (tmp_path / "out" / name).write_text("old")
    fill(tmp_path / "out")
    found = {path.name: path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"README.md": "old", "c": "old", "a": "new", "b": "new", "last": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("there", [True, False])
def test_nothing_is_left_of_a_folder_that_was_not_finished(
    error: type[BaseException], there: bool, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    if there:
        out.mkdir()
        (out / "README.md").write_text("old")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error), whole_folder(out, last="last") as folder:
        (folder / "a").write_text("half")
        raise error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as caught, whole_folder(tmp_path / "out", last="last"):
        raise OSError(28, "No space left on device")
    assert str(caught.value) == (
        f"{tmp_path / 'out'} cannot be written (No space left on device); give another folder."
    )


def test_a_place_that_cannot_be_is_said_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest) as caught:
        needs_place(tmp_path / "file")
    assert str(caught.value) == f"{tmp_path / 'file'} is a file; give a folder."
    with pytest.raises(InvalidRequest) as caught:
        needs_place(Path("/proc/nothing"))
    assert str(caught.value).startswith("/proc/nothing cannot be written (")
