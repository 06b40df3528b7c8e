"""Writing so that nothing is lost: what stood before still stands whenever a write fails."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from inversionview.core.errors import StorageError
from inversionview.core.storage import recover, replacing, write_json


def tree(path: Path) -> dict[str, str]:
    """Every file below ``path``, hidden ones too, with its content."""
    return {str(p.relative_to(path)): p.read_text() for p in sorted(path.rglob("*")) if p.is_file()}


def fill(folder: Path, text: str) -> None:
    (folder / "inner").mkdir(parents=True)
    (folder / "a.txt").write_text(text)
    (folder / "inner" / "b.txt").write_text(text)


def write(path: Path, content: str | Callable[[Path], None], then: Callable[[], None] = lambda: None) -> None:
    """Replace ``path`` by a file of that text, or by what ``content`` makes; ``then`` happens before it takes its place."""
    with replacing(path) as temporary:
        if isinstance(content, str):
            temporary.write_text(content)
        else:
            content(temporary)
        then()


def half(folder: Path) -> None:
    fill(folder, "half")


def stop(raised: type[BaseException]) -> Callable[[], None]:
    def now() -> None:
        raise raised("stop")

    return now


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


# -- success -----------------------------------------------------------------------------------------------------------


def test_a_file_is_made_with_its_folders_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "one" / "two" / "file.txt"
    for text in ("first", "second"):
        with replacing(path) as temporary:
            assert temporary.parent == path.parent, "a rename must not cross file systems"
            temporary.write_text(text)
            assert not path.exists() or path.read_text() != text, "the place was written before the end"
        assert tree(tmp_path) == {"one/two/file.txt": text}


def test_a_folder_is_made_and_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with replacing(path) as temporary:
        fill(temporary, "first")
    assert tree(tmp_path) == {"run/a.txt": "first", "run/inner/b.txt": "first"}
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "c.txt").write_text("second")
    assert tree(tmp_path) == {"run/c.txt": "second"}
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_json_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    for value in ({"ε": 0.1, "sites": ["a0.3"]}, [1, 2]):
        write_json(path, value)
        assert json.loads(path.read_text(encoding="utf-8")) == value
    assert [p.name for p in tmp_path.iterdir()] == ["study.json"]


def test_what_json_cannot_say_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["study.json"]


# -- failure -----------------------------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """Stands for KeyboardInterrupt, which pytest takes for itself."""


FAILURES: list[tuple[type[BaseException], type[BaseException]]] = [
    (OSError, StorageError),
    (ValueError, ValueError),
    (Interrupted, Interrupted),
]


@pytest.mark.parametrize(("raised", "seen"), FAILURES)
def test_a_failure_while_writing_a_file_keeps_the_old_one(tmp_path: Path, raised: Any, seen: Any) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(seen):
        write(path, "half", stop(raised))
    assert tree(tmp_path) == {"file.txt": "old"}


@pytest.mark.parametrize(("raised", "seen"), FAILURES)
def test_a_failure_while_writing_a_folder_keeps_the_old_one(tmp_path: Path, raised: Any, seen: Any) -> None:
    path = tmp_path / "run"
    fill(path, "old")
    before = tree(tmp_path)
    with pytest.raises(seen):
        write(path, half, stop(raised))
    assert tree(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("call", ["fsync", "open"])
def test_a_full_disk_when_syncing_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(StorageError, match=r"file\.txt.*No space left") as caught:
        write(path, "new", lambda: monkeypatch.setattr(os, call, full))
    monkeypatch.undo()
    assert isinstance(caught.value.__cause__, OSError)
    assert tree(tmp_path) == {"file.txt": "old"}


def test_a_full_disk_when_syncing_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    fill(path, "old")
    before = tree(tmp_path)
    with pytest.raises(StorageError, match="No space left"):
        write(path, half, lambda: monkeypatch.setattr(os, "fsync", full))
    monkeypatch.undo()
    assert tree(tmp_path) == before


@pytest.mark.parametrize("nth", [1, 2])
def test_a_rename_that_fails_keeps_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int) -> None:
    path = tmp_path / "run"
    fill(path, "old")
    before = tree(tmp_path)
    real: Callable[..., Any] = Path.rename
    calls = []

    def rename(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == nth:
            full()
        return real(self, target)

    with pytest.raises(StorageError, match="untouched"):
        write(path, half, lambda: monkeypatch.setattr(Path, "rename", rename))
    monkeypatch.undo()
    assert tree(tmp_path) == before


LIMITED = """
import resource, signal, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from inversionview.core.errors import StorageError
from inversionview.core.storage import replacing

content = torch.ones(50_000)
writers = {
    "plain": lambda path: path.write_bytes(content.numpy().tobytes()),
    "safetensors": lambda path: save_file({"x": content}, path),
    "torch": lambda path: torch.save(content, path),
}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536))
for name, write in writers.items():
    try:
        with replacing(Path(sys.argv[1]) / name) as temporary:
            write(temporary)
    except StorageError as error:
        print(error)
"""


def test_a_write_that_finds_no_room_is_a_storage_error_whoever_writes(tmp_path: Path) -> None:
    """A limit on the size of a file stands for the full disk: each write fails in the middle."""
    names = ["plain", "safetensors", "torch"]
    for name in names:
        (tmp_path / name).write_text("old")
    done = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name in names:
        assert f"{tmp_path / name} could not be written" in done.stdout
    assert tree(tmp_path) == dict.fromkeys(names, "old")


def test_an_error_of_safetensors_is_a_storage_error(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_text("old")
    with pytest.raises(StorageError):
        write(path, lambda temporary: save_file({"x": torch.ones(2)}, temporary / "no" / "such" / "folder"))
    assert tree(tmp_path) == {"model.safetensors": "old"}


def test_nothing_written_is_an_error_and_keeps_the_old(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(StorageError), replacing(path):
        pass
    assert tree(tmp_path) == {"file.txt": "old"}


def test_a_place_inside_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    for path in (tmp_path / "file" / "run", tmp_path / "file" / "deep" / "run"):
        with pytest.raises(StorageError):
            write(path, "new")
    assert tree(tmp_path) == {"file": "old"}


def test_a_name_that_is_too_long_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        write(tmp_path / ("x" * 300), "new")
    assert list(tmp_path.iterdir()) == []


def test_a_file_does_not_take_the_place_of_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "run"
    fill(path, "old")
    before = tree(tmp_path)
    with pytest.raises(StorageError):
        write(path, "new")
    assert tree(tmp_path) == before


# -- recovery ----------------------------------------------------------------------------------------------------------


def cut_short(path: Path) -> None:
    """Replace the folder ``path`` in another process that dies between the two renames."""
    code = """
import os, sys
from pathlib import Path
from inversionview.core.storage import replacing
real, calls = Path.rename, []
def rename(self, target):
    calls.append(target)
    return os._exit(9) if len(calls) == 2 else real(self, target)
with replacing(Path(sys.argv[1])) as temporary:
    temporary.mkdir()
    (temporary / "new.txt").write_text("new")
    Path.rename = rename
"""
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == 9


def test_a_folder_whose_replacement_was_cut_short_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "run"
    fill(path, "old")
    before = tree(path)
    cut_short(path)
    assert not path.exists()
    recover(path)
    assert tree(path) == before
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "c.txt").write_text("third")
    assert tree(path) == {"c.txt": "third"}


def test_recovery_leaves_alone_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "run"
    recover(path)
    assert list(tmp_path.iterdir()) == []
    fill(path, "new")
    before = tree(tmp_path)
    recover(path)
    assert tree(tmp_path) == before
