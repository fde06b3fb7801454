"""Folders appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from predictor.errors import InvalidRequest
from predictor.files import needs_place, refusal, whole_file, whole_folder


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


def dead() -> int:
    """Number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.skipif(os.name == "nt", reason="drafts stay there")
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "out", last="last") as folder:
        (folder / "last").write_text("")
        named = folder.name
    left = named.replace(f".{os.getpid()}-", f".{dead()}-")
    alive = named.replace(f".{os.getpid()}-", f".{os.getppid()}-")
    elsewhere = left[:-8] + "00000000"
    for name in (left, alive, elsewhere, named, ".out.mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("")
    (tmp_path / left.replace(".out.", ".file.")).write_text("half")
    with whole_folder(tmp_path / "out", last="last", over=True) as folder, whole_file(tmp_path / "file") as draft:
        for path in (folder / "last", draft):
            path.write_text("whole")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "file", alive, elsewhere, ".out.mine"}


def test_a_folder_that_another_process_finished_meanwhile_stays(tmp_path: Path) -> None:
    out = tmp_path / "out"
    said = "was finished by another process meanwhile"
    with pytest.raises(InvalidRequest, match=said), whole_folder(out, last="last") as folder:
        (folder / "last").write_text("mine")
        out.mkdir()
        (out / "last").write_text("theirs")
    assert (out / "last").read_text() == "theirs" and list(tmp_path.iterdir()) == [out]


def test_a_file_that_the_disk_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, whole_file(tmp_path / "file"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "file") and not list(tmp_path.iterdir())


def test_a_copy_that_a_disk_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    for name in "ab":
        (tmp_path / "from" / name).symlink_to("nowhere")
    with pytest.raises(shutil.Error) as caught:
        shutil.copytree(tmp_path / "from", tmp_path / "to")
    assert refusal(caught.value) == "No such file or directory"
