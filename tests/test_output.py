"""What the command line writes, and where to: full devices, closed pipes, text that would steer a terminal or a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.panel import Panel
from rich.table import Table

import inversionview as iv
from inversionview.cli import main
from inversionview.core import memory
from inversionview.core.errors import SettingError, StorageError
from inversionview.core.files import write_records
from inversionview.core.memory import available, check_disk, check_memory
from inversionview.core.printable import cell, json_line, one_line, shown
from inversionview.sources.settings import Setting
from inversionview.terminal.app import bar, err, out, print_json
from inversionview.terminal.output import prepare
from tests.test_cli import ADD, COUNT, bad, run

READ = ("read", "addition", ADD, "--at", "=", "--site", "a0.0", "--temperature", "1", "--candidates", "4")
WALK = ("walk", "addition", ADD, "--at", "=", "--site", "a0.0", "--steps", "3", "--chains", "2", "--no-exchange")
COMMANDS = [
    ("sites", "addition"), ("sites", "addition", "--json"), ("path", "addition", "model"), READ, (*READ, "--json"),
    (*WALK, "--stream"), ("--help",), ("read", "--help"),
]  # fmt: skip
EVIL = "\x1b]0;owned\x07\x1b[31m\x9b31m\u202eevil\u2066\u2028[red]x[/red]"
STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def steering(text: str) -> list[str]:
    return [c for c in text if unicodedata.category(c) in STEERING and c not in "\n\t"]


# -- where to ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_full_device_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            main(list(command))
        full.flush()  # as the interpreter does at its end: what is left goes nowhere
    err = capsys.readouterr().err
    assert ended.value.code == 2
    assert len(err.splitlines()) == 1
    assert "No space left on device" in err
    monkeypatch.undo()
    main(["path", "addition", "model"])
    assert len(capsys.readouterr().out.splitlines()) == 1  # nothing of the command before


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_closed_pipe_ends_it_without_a_word(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        with pytest.raises(SystemExit) as ended:
            main(list(command))
        closed.flush()
    assert ended.value.code == 141
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("target", "code"), [("> /dev/full", 2), (">&-", 0), ("| true", 141), ("2> /dev/full", 0)])
def test_a_process_of_its_own(target: str, code: int) -> None:
    """What the interpreter flushes at its end is silent, too."""
    script = f"set -o pipefail; {sys.executable} -m inversionview.cli path addition model {target}"
    if "true" in target:  # which must have gone before anything is written
        script = f"set -o pipefail; {{ sleep 0.3; {sys.executable} -m inversionview.cli path addition model; }} | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == (code == 2)


# that every command does is tried in test_nonsense.py, whose outputs are of these encodings


class Narrow(io.TextIOWrapper):
    """A terminal of an encoding."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, write_through=True)

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        value: bytes = self.buffer.getvalue()  # type: ignore[attr-defined]
        return value.decode(self.encoding)


@contextmanager
def narrowed(encoding: str) -> Iterator[tuple[Narrow, Narrow]]:
    """Let output and errors go to terminals of an encoding, which are given."""
    with pytest.MonkeyPatch.context() as patch:
        streams = Narrow(encoding), Narrow(encoding)
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        prepare()
        yield streams


def ascii_of(text: str) -> str:
    stream = Narrow("ascii")
    stream.reconfigure(errors="substituted")
    stream.write(text)
    return stream.text


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp437", "utf-8"])
def test_json_is_json_in_any_encoding(encoding: str) -> None:
    value = {"text": "é ε − 数 😀 \U000e0001 \u202e \ud83d ⟨e7⟩", "é": [1.5, None]}
    with narrowed(encoding) as (stdout, _):
        print_json(value)
    assert json.loads(stdout.text) == value
    assert stdout.text.count("\n") == 1


@settings(max_examples=100)
@given(st.text())
def test_what_an_encoding_lacks_is_substituted(text: str) -> None:
    assert ascii_of(text.encode("ascii", "ignore").decode()) == text.encode("ascii", "ignore").decode()
    assert ascii_of(text).isascii()
    assert len(ascii_of(text)) >= len(text)


def test_signs_of_its_own_stay_readable() -> None:
    assert ascii_of("D ≤ ε = 0.1 … −2 × 3 – →") == "D <= eps = 0.1 ... -2 x 3 - ->"
    assert ascii_of("数é😀") == "\\u6570\\xe9\\U0001f600"  # which one is to be known from the other


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_bars_and_tables(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(err, "_force_terminal", True)
    table = Table("ε", "D − 1")
    table.add_row("数", "≤ 2")
    with narrowed(encoding) as (stdout, stderr):
        with bar("reading ε", 3) as advance:
            advance(2, "2 × 数")
        out.print(Panel(table, title="→"))
    assert "reading eps" in stderr.text
    assert "\\u6570" in stdout.text
    assert "->" in stdout.text
    assert "<= 2" in stdout.text


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def test_arguments_and_names_are_utf8_in_the_locale_c(tmp_path: Path) -> None:
    """Python itself takes them for ASCII there. What is written stays ASCII, and the exit code its own."""
    folder = tmp_path / "modèle ε"
    folder.mkdir()
    (folder / "study.json").write_text('{"inputs": "addition", "model": "数"}', encoding="utf-8")
    without = {name: value for name, value in os.environ.items() if name != "PYTHONIOENCODING"}

    def said(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "inversionview.cli", *words]
        done = subprocess.run(command, capture_output=True, check=False, env={**without, **C_LOCALE})
        return done.returncode, (done.stdout + done.stderr).decode("ascii")

    code, sentence = said("path", str(folder), "model")
    assert (code, len(sentence.splitlines())) == (2, 1)
    assert "mod\\xe8le eps/study.json is damaged" in sentence  # found, and shown as what it is
    code, text = said("walk", "addition", "--help")
    assert (code, "Usage" in text) == (0, True)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_a_console_of_another_encoding(encoding: str) -> None:
    command = [sys.executable, "-m", "inversionview.cli", "sites", "--help"]
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert (done.returncode, done.stderr) == (0, b"")
    assert "Usage" in done.stdout.decode(encoding)


@pytest.mark.parametrize(
    "command",
    [
        ("export", "addition", ADD, "--at", "=", "--out"), ("inform", "addition", "--out"), ("bits", "addition", "--out"),
        ("dla", "addition", ADD, "--at", "=", "--out"), ("patch", "addition", "--limit", "2", "--out"),
        ("ablate", "addition", "--at", "=:a0.0", "--out"), ("flow", "addition", "--out"), ("heads", "ioi", "--out"),
        ("complete", "addition", "--data"), ("threshold", "addition", ADD, "--at", "=", "--out"), ("recall", "--out"),
        ("interpret", "addition", "--no-llm", "--out"),
    ],
    ids=lambda command: command[0],
)  # fmt: skip
@pytest.mark.parametrize("place", ["/dev/full", "/proc/x.csv", "file.exe", "/dev/null/x.png"])
def test_places_to_write_are_tried_first(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], place: str
) -> None:
    def too_late(*_: object, **__: object) -> None:
        raise AssertionError("a study was loaded before")

    monkeypatch.setattr("inversionview.studies.load.load", too_late)
    bad(capsys, *command, place, says=place.rpartition("/")[2])


# -- what --------------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(st.text())
def test_nothing_shown_steers_a_terminal(text: str) -> None:
    assert steering(shown(text)) == []
    assert len(shown(text)) == len(text)
    assert not {"\n", "\t"} & set(one_line(text))
    line = json_line({"text": text})
    assert steering(line) == []
    assert "\n" not in line
    assert json.loads(line) == {"text": text}


@settings(max_examples=200)
@given(st.text(alphabet=st.sampled_from("=+-@\t\r\n 1.eé\x1b\u202e＝a")))
def test_no_cell_is_a_formula(text: str) -> None:
    made = cell(text)
    assert steering(made) == []
    try:
        float(text)
    except ValueError:
        assert made.lstrip()[:1] not in tuple("=+-@＝")
    if text[:1].isalpha():
        assert not made.startswith("'")


def test_hostile_names_in_errors_and_tables(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Of arguments, of a run's ``study.json``, of a model's ``config.json``."""
    folder = tmp_path / "run"
    folder.mkdir()
    study = {"inputs": "texts", "model": f"/nowhere/{EVIL}", "sites": [EVIL], "site": EVIL, EVIL: 1}
    (folder / "study.json").write_text(json.dumps(study))
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": EVIL, "architectures": [EVIL]}))
    for command in (
        ("read", str(folder), "x"), ("path", str(folder), "model"), ("path", EVIL, "model"), ("sites", "--model", EVIL),
        ("sites", "--model", str(model)), ("read", "addition", ADD, "--site", EVIL), ("read", "addition", ADD, "--at", EVIL),
        ("read", "addition", EVIL), (EVIL,), ("read", f"--{EVIL}"), ("bits", "addition", "--epsilons", EVIL),
        ("inform", "addition", "--out", f"{EVIL}.exe"), ("inform", "addition", "--feature", EVIL), ("read", EVIL, ADD),
    ):  # fmt: skip
        code, out, err = run(capsys, *command)
        assert steering(out + err) == []
        assert code == 2
        assert len(err.splitlines()) == 1


def test_a_run_with_a_hostile_folder_is_read(
    capsys: pytest.CaptureFixture[str], addition: iv.Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its name is no markup, and no escape sequence."""
    folder = tmp_path / "a [red]b[/red] \x1b[31m \u202ec"
    code, _, err = run(
        capsys, "bank", "addition", "--inputs", "20", "--sites", "a0.0", "--positions", "=", "--out", str(folder)
    )
    assert code == 0
    assert steering(err) == []
    assert "a [red]b[/red] ·[31m ·c/bank" in err.replace("\n", "")
    code, out, _ = run(capsys, "path", str(folder), "decoder")
    assert (code, steering(out)) == (0, [])


def test_csv_files_hold_cells(tmp_path: Path) -> None:
    records = [{"=name": "=1+1", "n": -1.5, "text": "\x1b[31m\u202e"}, {"=name": "-7", "n": 2.0, "text": "@x\n+y"}]
    write_records(records, tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"'=name": "'=1+1", "n": "-1.5", "text": "·[31m·"}, {"'=name": "-7", "n": "2.0", "text": "'@x⏎+y"},
        ]  # fmt: skip


# -- what fits, and what does nothing ----------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_with_what_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "available", lambda: 10_000_000)
    with pytest.raises(SettingError, match=r"80,001 rows need 8 MB of memory, 10 MB are free: give at most 80,000"):
        check_memory(80_001, "rows", 100)
    assert check_memory(80_000, "rows", 100) == 80_000
    with pytest.raises(StorageError, match="at most"):
        check_disk(10**15, "rows", 1000, tmp_path / "not" / "there")
    assert check_disk(1, "rows", 1000, tmp_path / "not" / "there") == 1


def test_a_limit_of_the_shell_counts_as_memory() -> None:
    code = "import resource; from inversionview.core.memory import available; "
    code += "resource.setrlimit(resource.RLIMIT_AS, (2**32,) * 2); "
    done = subprocess.run([sys.executable, "-c", code + "print(available())"], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2**32


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"each": 10**9}, "candidates need"), ({"each": 0}, "at least 1"), ({"each": 1.5}, "whole"), ({"count": 0}, "count"),
        ({"seed": 2**63}, "seed"), ({"seed": -1}, "seed"), ({"settings": [Setting(float("nan"))]}, "temperature"),
        ({"settings": [Setting(noise=float("inf"))]}, "noise"), ({"settings": []}, "way to draw"), ({"fixed": "999"}, "999"),
    ],
)  # fmt: skip
def test_the_library_refuses_too(addition: iv.Study, options: dict[str, object], says: str) -> None:
    query = addition.query(ADD, at="=", site="a0.0")
    with pytest.raises(iv.errors.InversionViewError, match=says):
        iv.read(addition, query, **options, source="decoder")  # type: ignore[arg-type]


def test_a_terminal_of_no_width(capfd: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "inversionview.cli", "sites", "addition"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "0"})
    assert "x1.post" in done.stdout


def test_a_cell_stays_one_whatever_separates(tmp_path: Path) -> None:
    """Spreadsheets of some countries separate by semicolons."""
    write_records([{"text": "x;=HYPERLINK(1)", "n": 3}], tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text(encoding="utf-8") == '"text","n"\n"x;=HYPERLINK(1)",3\n'


@pytest.mark.parametrize(
    ("most", "room"),
    [("max", None), ("3000000", 3_000_000 - (2_500_000 - (2_000_000 - 400_000))), ("1000", 0), ("nonsense", None)],
)
def test_memory_of_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, most: str, room: int | None) -> None:
    """What files take there, 2 MB of which 0.4 MB are shared memory, is free."""
    whole = available()
    for name, text in (("max", most), ("current", "2500000"), ("stat", "anon 500000\nfile 2000000\nshmem 400000\n")):
        (tmp_path / f"memory.{name}").write_text(f"{text}\n")
    monkeypatch.setattr("inversionview.core.memory._CGROUP", tmp_path)
    assert available() == room if room is not None else available() > whole / 2


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ((*READ[:-4], "--noise", "1"), "--noise"), ((*READ, "--source", "walk"), "--temperature and --candidates"),
        ((*READ[:-4], "--seconds", "3"), "--seconds"), ((*READ[:-4], "--source", "corpus", "--seconds", "3"), "--seconds"),
        ((*WALK, "--beta", "2"), "--beta"), ((*WALK, "--longer", "3"), "--longer"),
        (("train", "counting", "--out", "x", "--bank", "nope"), "--bank"),
        (("train", "counting", "--out", "x", "--max-length", "9"), "--max-length"),
        (("complete", "counting", COUNT, "--queries", "3"), "--queries"),
        (("agree", "counting", COUNT, "--sources", "walk", "--bank", "nope"), "--bank"),
        (("agree", "counting", COUNT, "--sources", "corpus", "--seconds", "3"), "--seconds"),
        (("dla", "counting", COUNT, "--inputs", "3"), "--inputs"),
        (("recall", "--keep", "x", "--heads", "3"), "--heads"),
        (("interpret", "counting", "--no-llm", "--budget", "3"), "--budget"),
        (("interpret", "counting", COUNT, "--no-llm", "--queries", "3"), "--queries"),
        (("export", "counting", COUNT, "--seconds", "3"), "--seconds"),
        (("read", "addition", ADD, "--distance", ""), "--distance is empty"),
        (("bits", "addition", "--positions", ","), "names nothing"),
        (("train", "addition", "--out", "x", "--minutes", "nan"), "--minutes must be a finite number"),
        (("train", "addition", "--out", "x", "--steps", "0"), "at least 1"),
        (("train", "addition", "--out", "x", "--minutes", "1e9"), "at most 527,040"),
    ],
)  # fmt: skip
def test_options_that_would_do_nothing_are_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    bad(capsys, *command, says=says)
