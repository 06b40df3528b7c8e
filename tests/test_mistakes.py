"""Mistakes on the command line: one sentence that names the way out, of this study, before anything heavy is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import given, settings
from hypothesis import strategies as st

from inversionview.cli import main
from inversionview.core.errors import UnknownSiteError
from inversionview.model.header import sites_of
from inversionview.model.naming import is_hub_name
from inversionview.model.sites.kind import Counts
from inversionview.model.sites.patterns import expand, find_site
from inversionview.model.sites.site import Site, all_sites
from inversionview.studies.shipped import default_model
from inversionview.terminal.app import app

ADD = "615+861=1476"


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as error:
        main(list(arguments))
    captured = capsys.readouterr()
    assert error.value.code == 2
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("command", ["read", "walk", "search", "sites", "bank", "inform", "threshold", "evaluate", "path"])
def test_a_model_in_place_of_a_study(capsys: pytest.CaptureFixture[str], own_model: Path, command: str) -> None:
    words = {"sites": [], "bank": [], "inform": [], "evaluate": [], "path": ["model"]}.get(command, ["ann has 5 figs"])
    assert f"is a model, no study: give it by --model {own_model}" in said(capsys, command, str(own_model), *words)


def test_a_gguf_file_in_place_of_a_study(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    assert "There is no file" in said(capsys, "read", str(path), "hello")
    path.write_bytes(b"GGUF")
    assert f"is a model, no study: give it by --model {path}" in said(capsys, "read", str(path), "hello")


def commands_with_a_model() -> dict[str, list[str]]:
    """Every command that has --model, with what it is given so that nothing else is wrong with it."""
    group = typer.main.get_command(app)
    names = [name for name, each in group.commands.items() if any("--model" in p.opts for p in each.params)]  # type: ignore[attr-defined]
    special = {
        "train": ["--texts", "plain.txt", "--out", "nowhere"], "explore": ["--no-browser", "--port", "0"], "recall": [],
        "export": [ADD], "dla": [ADD], "read": [ADD], "walk": [ADD], "sites": [],
        "patch": ["addition", "--at", "=:a0.0"], "ablate": ["addition", "--at", "=:a0.0"], "heads": ["ioi"],
        "interpret": ["addition", "--no-llm"], "recover": ["--text", "Hello", "--site", "x0.post"],
        "latents": ["addition", ADD, "--at", "=", "--site", "x0.post|sae:addition"],
        "judge": [str(Path(__file__).parent / "statements.jsonl")],
    }  # fmt: skip
    words = {name: [ADD] for name in ("search", "threshold", "agree")}
    return {name: special.get(name, ["addition", *words.get(name, [])]) for name in names}


@pytest.mark.parametrize("command", commands_with_a_model())
def test_what_is_no_model(capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str) -> None:
    """It is told at once: the hub is not asked."""
    rest = commands_with_a_model()[command]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "study.json").write_text("{}")
    for study in ("counting", "ioi", str(tmp_path / "run")):
        assert f"{study} is a study, no model" in said(capsys, command, *rest, "--model", study)
    missing = str(tmp_path / "nowhere")
    assert f"There is no model at {missing}" in said(capsys, command, *rest, "--model", missing)
    (tmp_path / "empty").mkdir()
    assert "There is no model in the folder" in said(capsys, command, *rest, "--model", str(tmp_path / "empty"))
    assert "'no such model' is no name of a model" in said(capsys, command, *rest, "--model", "no such model")


def test_a_study_in_place_of_the_model_of_a_decoder(capsys: pytest.CaptureFixture[str]) -> None:
    assert "counting is a study, no model" in said(capsys, "train", "ioi", "--decoder-from", "counting", "--out", "nowhere")


def test_explore_tells_that_a_model_is_not_at_hand(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "There is no directory nope-nope" in said(capsys, "explore", "--no-browser", "--port", "0", "--model", "nope-nope")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("inversionview.explorer.connections.Server.run", lambda *_: None)
    main(["explore", "--no-browser", "--port", "0", "--model", "nope-nope"])
    captured = capsys.readouterr()
    assert captured.err == "There is no directory nope-nope: it is looked for on the hub when it is first opened.\n"
    assert "#study=nope-nope" in captured.out


def test_explore_says_of_a_run_what_every_command_says(
    capsys: pytest.CaptureFixture[str], own_model: Path, tmp_path: Path
) -> None:
    for wrong in ("addtion", str(tmp_path / "nowhere"), str(tmp_path), str(own_model), str(tmp_path / "m.gguf")):
        assert said(capsys, "explore", wrong, "--no-browser", "--port", "0") == said(capsys, "evaluate", wrong)


@pytest.mark.parametrize("command", ["sites", "bank", "evaluate"])
def test_a_run_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path, command: str) -> None:
    (tmp_path / "heads").mkdir()
    (tmp_path / "heads" / "study.json").write_text("{}")
    near = str(tmp_path / "heads")
    told = said(capsys, command, str(tmp_path / "haeds"))
    assert f"There is no folder {tmp_path / 'haeds'}" in told
    assert f"Runs lie in {near}." in told
    told = said(capsys, command, str(tmp_path))
    assert "holds no study.json" in told
    assert f"Runs lie in {near}." in told
    (tmp_path / "heads" / "bank").mkdir()
    assert f"is a part of a run: name the run, {near}" in said(capsys, command, str(tmp_path / "heads" / "bank"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("read", "addition", "615+861", "=", "1476"), "= 1476. Put a text in quotes"),
        (("read", "addition", ADD, "--epsilon", "10%"), "10bits or 0.1nat, but not '10%': write 0.1."),
        (("read", "addition", ADD, "--epsilon=0,25"), "10bits or 0.1nat, but not '0,25': write 0.25."),
        (("walk", "addition", ADD, "--seconds", "ten"), "--seconds is a number, but 'ten' is none"),
        (("search", "addition", ADD, "--count", "2.5"), "--count is a whole number, but '2.5' is none: write 2."),
        (("read", "addtion", ADD), "Did you mean 'addition'?"),
        (("read", "The", "capital"), "a text of several words stands in quotes"),
        (("ablate", "addition"), "No activation is named: write for instance --at '=:a0.0'"),
        (("ablate", "counting"), "No activation is named: write for instance --at '::a1.0'"),
        (("patch", "addition", "--at", "query"), "such as '=:a0.0'"),
        (("ablate", "addition", "--at", "query:a0.0", "--limit", "20"), "name another (F1, F2, F3, +, S1, S2, S3, =, A1"),
        (("read", "addition", ADD, "--site", "x7.post"), "x*.post are in layers 0, 1."),
        (("read", "addition", ADD, "--site", "a1.9"), "layer 1 has heads 0–3."),
    ],
)
def test_the_way_out(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], says: str) -> None:
    assert says in said(capsys, *arguments)


DEEP = all_sites(Counts((9,) * 30))


@pytest.mark.parametrize(
    ("site", "says"),
    [
        ("x35.post", r"x\*.post are in layers 0–29."),
        ("blocks.30.hook_resid_mid", r"x\*.mid are in layers 0–29."),
        ("a30.0", "heads are in layers 0–29."),
        ("a29.9", "layer 29 has heads 0–8."),
        ("m99", r"MLPs \(m0, …\) are in layers 0–29."),
        ("x5.pst", r"Did you mean 'x5.post'\?"),
    ],
)
def test_layers_and_heads_are_named_in_place_of_a_guess(site: str, says: str) -> None:
    for look in (find_site, expand):
        with pytest.raises(UnknownSiteError, match=says):
            look(site, DEEP)


def test_sites_of_a_few() -> None:
    few = [*(Site(9, "head", head) for head in (1, 4, 6, 7, 8)), Site(12, "head", 0)]
    with pytest.raises(UnknownSiteError, match="layer 9 has heads 1, 4 and 6–8"):
        find_site("a9.0", few)
    with pytest.raises(UnknownSiteError, match="heads are in layers 9 and 12"):
        find_site("a3.0", few)


def test_the_header_of_a_gguf_file_tells_its_sites() -> None:
    assert sites_of(default_model()) == all_sites(Counts((9,) * 30))  # SmolLM2-135M


def test_a_configuration_tells_the_sites(own_model: Path, tmp_path: Path) -> None:
    assert sites_of(own_model) == all_sites(Counts((4,)))
    assert sites_of(tmp_path) is None
    for text in ("[]", "{", '{"n_layer": "x", "n_head": 2}', '{"n_layer": 100000000, "n_head": 2}', '{"n_layer": 2}'):
        (tmp_path / "config.json").write_text(text)
        assert sites_of(tmp_path) is None
    for data in (b"", b"GGUF", b"GGUF" + b"\xff" * 60, b"x" * 200):
        (tmp_path / "m.gguf").write_bytes(data)
        assert sites_of(tmp_path / "m.gguf") is None


def test_a_site_of_a_language_model_is_refused_before_it_is_loaded() -> None:
    """Neither transformers nor the bridge is even imported."""
    code = (
        "import sys\nfrom inversionview.cli import main\n"
        f"try:\n main(['read', '--model', {str(default_model())!r}, 'hello', '--site', 'x35.post'])\n"
        "except SystemExit:\n pass\n"
        "sys.exit(10 * sum(name in sys.modules for name in ('transformers', 'transformer_lens')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "x*.post are in layers 0–29" in done.stderr


@settings(max_examples=300)
@given(
    st.text(st.sampled_from("ab1_-./é \n"), max_size=12) | st.text(max_size=5) | st.sampled_from(["a" * 96, "a" * 97, "a.git"])
)
def test_names_are_those_of_the_hub(name: str) -> None:
    try:
        validate_repo_id(name)
        allowed = True
    except HFValidationError:
        allowed = False
    assert is_hub_name(name) == allowed
