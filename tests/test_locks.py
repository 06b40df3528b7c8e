"""What killed processes leave: files half written go with the next write, locks do not count. What others write stays."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import inversionview as iv
from inversionview.bank.harvest import harvest_bank
from inversionview.cli import main
from inversionview.core import errors
from inversionview.core.locks import clear, locked
from inversionview.core.storage import check_writable, recover, replacing, sweep, write_json
from inversionview.corpora.texts import TextInputs
from inversionview.runs.train import Reading, Watch, train_texts
from tests.conftest import sentences

WRITES = """
import signal, sys
from pathlib import Path
from inversionview.core.storage import replacing
with replacing(Path(sys.argv[1])) as temporary:
    (temporary / "inner").mkdir(parents=True)
    (temporary / "inner" / "half").write_text("half")
    print(temporary, flush=True)
    signal.pause()
"""
HOLDS = """
import signal, sys
from pathlib import Path
from inversionview.core.locks import locked
with locked(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    signal.pause()
"""


@contextmanager
def another(code: str, path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that runs ``code`` on a path, and its first word; it is killed at the end."""
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# -- leftovers ---------------------------------------------------------------------------------------------------------


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    with another(WRITES, tmp_path / "folder") as (process, temporary):
        write_json(tmp_path / "while.json", {})
        assert Path(temporary, "inner", "half").exists(), "its process still runs"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert Path(temporary).exists()
        write_json(tmp_path / "after.json", {})
        assert names(tmp_path) == {"while.json", "after.json"}


def test_whatever_writes_there_sweeps(tmp_path: Path) -> None:
    for write in (lambda: check_writable(tmp_path / "figure.png"), lambda: recover(tmp_path / "run")):
        with another(WRITES, tmp_path / "folder"):
            pass
        assert len(names(tmp_path)) == 1
        write()
        assert names(tmp_path) == set()


def test_a_killed_process_that_nobody_has_waited_for_is_dead(tmp_path: Path) -> None:
    with another(WRITES, tmp_path / "folder") as (process, _):
        process.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
        sweep(tmp_path)
        assert names(tmp_path) == set()


def test_only_what_dead_processes_of_this_host_wrote_goes(tmp_path: Path) -> None:
    """Names by their parts: this process' own, one of its number that began at another time, another host's, foreign ones."""
    with replacing(tmp_path / "x.json") as temporary:
        name, own, kind = temporary.name.rsplit(".", 2)
        pid, birth, host = own.split("-")
        temporary.write_text("{}")
        stay = {
            f"{name}.{pid}-{birth}-{host}.old",
            f"{name}.{pid}-{'0' * 8}-{'f' * 8}.{kind}",
            f"{name}.{pid}.tmp",
            f"x.json.{pid}-{'0' * 8}-{host}.tmp",
            ".x.json.tmp",
            ".old",
            ".hidden",
        }
        go = {f"{name}.{pid}-{'0' * 8}-{host}.tmp", f".y.{pid}-{'0' * 8}-{host}.tmp", f".y.{2**30}-{birth}-{host}.tmp"}
        for each in stay | go:
            (tmp_path / each).write_text("x")
        sweep(tmp_path)
        assert names(tmp_path) == stay | {temporary.name}
    assert names(tmp_path) == stay | {"x.json"}


def test_what_was_being_replaced_comes_back_unless_it_is_there(tmp_path: Path) -> None:
    with replacing(tmp_path / "probe") as temporary:
        temporary.touch()
        mark = temporary.name.removeprefix(".probe.").removesuffix(".tmp")
    pid, _, host = mark.split("-")
    for name in ("gone", "there"):
        old = tmp_path / f".{name}.{pid}-{'0' * 8}-{host}.old"
        old.mkdir()
        (old / "old").touch()
    (tmp_path / "there").mkdir()
    recover(tmp_path / "gone")
    assert names(tmp_path) == {"probe", "gone", "there"}
    assert names(tmp_path / "gone") == {"old"}
    assert names(tmp_path / "there") == set()


def test_a_folder_that_cannot_be_written_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with another(WRITES, tmp_path / "folder"):
        pass

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("read-only")

    for name in ("unlink", "rmdir", "rename"):
        monkeypatch.setattr(os, name, refuse)
    sweep(tmp_path)
    recover(tmp_path / "run")
    sweep(tmp_path / "nowhere")
    assert len(names(tmp_path)) == 1


def test_an_interrupt_between_the_two_renames_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old").touch()
    real, calls = Path.rename, []

    def rename(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "run") as temporary:
        temporary.mkdir()
    assert names(tmp_path) == {"run"}
    assert names(tmp_path / "run") == {"old"}


# -- locks -------------------------------------------------------------------------------------------------------------


def test_the_second_is_told_who_runs(tmp_path: Path) -> None:
    path = tmp_path / "run" / ".lock"
    with another(HOLDS, path) as (process, word):
        assert word == "held"
        with pytest.raises(errors.LockedError) as caught, locked(path, "runs/mine"):
            pass
        said = str(caught.value)
        for part in (f"Process {process.pid}", socket.gethostname(), "begun", "runs/mine"):
            assert part in said
        assert json.loads(path.read_text())["pid"] == process.pid, "who is refused changes nothing"
    with locked(path, "runs/mine"):
        assert json.loads(path.read_text())["pid"] == os.getpid(), "the lock of a killed process does not count"
    assert names(tmp_path / "run") == set()


def test_a_lock_is_taken_again_by_its_own_thread_alone(tmp_path: Path) -> None:
    seen = []

    def other() -> None:
        with pytest.raises(errors.LockedError), locked(tmp_path / ".lock", "it"):
            pass
        seen.append(True)

    with locked(tmp_path / ".lock", "it"):
        with locked(tmp_path / ".lock", "it"):
            pass
        assert (tmp_path / ".lock").exists()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == [True]
    assert names(tmp_path) == set()


def test_a_lock_leaves_no_folder_behind_that_nothing_was_written_to(tmp_path: Path) -> None:
    with pytest.raises(errors.SettingError), locked(tmp_path / "new" / ".lock", "it"):
        raise errors.SettingError("a mistake")
    assert names(tmp_path) == set()


def test_locks_of_the_dead_are_cleared_those_of_the_living_stay(tmp_path: Path) -> None:
    (tmp_path / ".shard-00000.lock").write_text("left")
    with another(HOLDS, tmp_path / ".shard-00001.lock"):
        clear(tmp_path)
        assert names(tmp_path) == {".shard-00001.lock"}


def test_a_second_training_or_bank_in_one_place_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands, while another process holds what they would write."""
    run, model = tmp_path / "run", tmp_path / "model"
    train = ["train", "counting", "--steps", "1", "--sites", "x0.pre", "--width", "8", "--out", str(run)]
    bank = ["bank", "counting", "--inputs", "300", "--out", str(run)]
    probed = ["train-probed", "counting", "--inputs", "1024", "--out", str(model)]
    places = (run / ".lock", tmp_path / ".model.lock", run / "bank" / ".shard-00000.lock")
    for command, place in zip((train, probed, bank), places, strict=True):
        with another(HOLDS, place) as (process, _):
            before = {path for path in tmp_path.rglob("*") if path.name != "manifest.json"}
            with pytest.raises(SystemExit) as ended:
                main(command)
            _, err = capsys.readouterr()
            assert ended.value.code == 2
            assert f"Process {process.pid}" in err
            assert len(err.strip().splitlines()) == 1
            assert {path for path in tmp_path.rglob("*") if path.name != "manifest.json"} == before
    main(bank)
    with another(HOLDS, run / "bank" / ".shard-00000.lock"):
        main(bank)  # a finished shard is not written, so its lock is not asked for


@pytest.mark.parametrize("door", ["texts", "library"])
def test_a_run_is_locked_while_it_is_trained_and_free_after(own_model: Path, tmp_path: Path, door: str) -> None:
    seen = []

    def look(*_: object) -> None:
        refused = []

        def try_it() -> None:
            with pytest.raises(errors.LockedError) as caught, locked(tmp_path / "run" / ".lock", "it"):
                pass
            refused.append(str(os.getpid()) in str(caught.value))

        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        seen.append(refused == [True])

    config = iv.TrainConfig(minutes=None, steps=2, batch=8, pool=2, evaluations=1, queries=2)
    if door == "texts":
        lines = tmp_path / "t.txt"
        lines.write_text("\n".join(sentences()))
        train_texts(
            str(own_model), str(lines), tmp_path / "run", config, reading=Reading("x0.post", stream=True), watch=Watch(look),
            width=16, layers=1,
        )  # fmt: skip
    else:
        model = iv.ProbedModel.from_pretrained(own_model)
        inputs = iv.TextInputs.tokenize(sentences(), model.tokenizer)
        iv.train(model, inputs, "x0.post", config, tmp_path / "run", report=look, width=16, layers=1)
    assert seen == [True]
    assert not (tmp_path / "run" / ".lock").exists()


def test_processes_of_one_bank_share_its_folder(own_model: Path, tmp_path: Path) -> None:
    """Another rank's shard may be under way: only one's own is asked for."""
    model = iv.ProbedModel.from_pretrained(own_model)
    inputs = TextInputs.tokenize([f"{line} {n}" for line in sentences() for n in range(2)], model.vocabulary, 32)
    options = {"rows": 480, "sites": "x0.post", "world": 2}
    with another(HOLDS, tmp_path / ".shard-00000.lock") as (process, _):
        harvest_bank(tmp_path, model, inputs, rank=1, **options)
        with pytest.raises(errors.LockedError, match=str(process.pid)):
            harvest_bank(tmp_path, model, inputs, rank=0, **options)
    assert len(harvest_bank(tmp_path, model, inputs, rank=0, **options)) == 480
    assert not list(tmp_path.glob(".*"))
