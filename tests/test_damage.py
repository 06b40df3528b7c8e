"""Damaged and forged files: each is told in one sentence, or changes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file

import inversionview as iv
from benchmarks.damage import OTHER, SITE, TEXT, TOLD, TRACEBACK, make_model, run
from inversionview.bank import manifest
from inversionview.bank.blocks import sums_of
from inversionview.bank.search import search
from inversionview.bank.store import ActivationBank
from inversionview.core import errors
from inversionview.core.integrity import CHECKSUMS, digests, sealed
from inversionview.corpora.texts import TextInputs
from inversionview.model.probed import ProbedModel
from inversionview.model.tokens import Vocabulary
from inversionview.studies import shipped
from inversionview.studies.load import keep
from inversionview.studies.spec import StudySpec, model_files, write_spec
from tests.test_cli import run as command

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, str, str, str]]:
    return list(run(tmp_path_factory.mktemp("damage"), 60))


def test_damage_is_told_or_changes_no_answer(outcomes: list[tuple[Any, str, str, str]]) -> None:
    bad = [f"{damage}, {question}: {what} {said}" for damage, question, what, said in outcomes if what in (OTHER, TRACEBACK)]
    assert not bad, "\n".join(bad)
    assert len(outcomes) == 60 * 4


def test_every_file_was_damaged_and_much_of_it_told(outcomes: list[tuple[Any, str, str, str]]) -> None:
    files = {damage.file for damage, *_ in outcomes}
    assert {f"run/bank/shard-00000/{name}.npy" for name in ("activations", "heads", "places", "codes", "basis")} <= files
    assert {"run/study.json", "run/bank/manifest.json", "model/model.safetensors"} <= files
    told = {damage.file for damage, _, what, _ in outcomes if what == TOLD}
    assert {"run/study.json", "model/config.json", "model/tokenizer.json", "model/model.safetensors"} <= told
    assert any("bank" in file for file in told)
    assert any("corpus" in file for file in told)


def flip(path: Path, at: int, bit: int = 0) -> None:
    held = bytearray(path.read_bytes())
    held[at] ^= 1 << bit
    path.write_bytes(bytes(held))


# -- banks ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def banked(addition: iv.Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads and other sites, in several shards."""
    folder = tmp_path_factory.mktemp("banked") / "bank"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest, "SHARD_ROWS", 1024)
        iv.build_bank(addition, folder, rows=2000, sites="a0.*,x0.post", positions=["=", "A2"])
    return folder


@pytest.fixture
def copy(banked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(manifest, "SHARD_ROWS", 1024)
    return Path(shutil.copytree(banked, tmp_path / "bank"))


@pytest.mark.parametrize("damage", ["no manifest", "a file", "a loop"])
def test_a_run_whose_own_bank_is_broken_is_not_answered_from_another(
    addition: iv.Study, banked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    """The user's cache has a sound one."""
    keep(addition, tmp_path)
    own = tmp_path / "bank"
    if damage == "no manifest":
        shutil.copytree(banked, own)
        (own / "manifest.json").unlink()
    elif damage == "a file":
        own.write_text("")
    else:
        own.symlink_to(own)
    for asks in (("search", str(tmp_path), "615+861=1476"), ("bank", str(tmp_path), "--check")):
        code, _, said = command(capsys, *asks)
        assert code == 2
        assert str(own) in said


def asked(study: iv.Study, folder: Path, site: str = "x0.post") -> list[list[int]]:
    """Which rows lie near some inputs: first one, for which all is read, then so many that the index is looked at."""
    queries = [study.query(f"{n}15+861={n * 100 + 876}", at="=", site=site) for n in range(1, 7)]
    bank = study.bank(folder)
    assert not len(bank.rows_of(study.query("615+861=1476").ids, -1))
    z = torch.stack([query.z for query in queries])
    return [hits.rows.tolist() for some in (z[:1], z) for hits in search(bank, site, some, epsilon=0.3)]


ARRAYS = ["activations", "heads", "sums", "places", "hashes", "codes", "head_codes", "edges", "order", "basis", "head_basis",
          "scales"]  # fmt: skip


@pytest.mark.parametrize("name", ARRAYS)
def test_a_flipped_bit_of_what_is_searched_is_told(copy: Path, addition: iv.Study, name: str) -> None:
    site = "a0.2" if name.startswith("head") else "x0.post"
    assert all(asked(addition, copy, site))
    array = np.load(copy / "shard-00001" / f"{name}.npy", mmap_mode="r")
    of_kind = dict.fromkeys(("activations", "codes", "basis"), (0, 1))
    of_kind |= dict.fromkeys(("heads", "head_codes", "head_basis"), (2, 1))
    whole = {**of_kind, "places": (0,), "hashes": (slice(None),)}.get(name, (4, 1))
    inside = np.zeros(array.shape, dtype=bool)
    inside[whole] = True
    if name.endswith("codes"):  # of other blocks and of the last level a search may see nothing
        inside[*whole, 8:] = False
    item = int(np.random.default_rng(len(name)).choice(np.flatnonzero(inside)))
    at = array.offset + item * array.itemsize  # type: ignore[attr-defined]
    flip(copy / "shard-00001" / f"{name}.npy", at, bit=3)
    with pytest.raises(errors.BankError, match=rf"{name}\.npy is damaged .*delete the folder .*shard-00001"):
        asked(addition, copy, site)


@pytest.mark.parametrize("at", [0, 6, 8, 9, 15, 40, 60, 90, 127])
def test_a_damaged_header_is_told(copy: Path, addition: iv.Study, at: int) -> None:
    for bit in range(8):
        flip(copy / "shard-00000" / "order.npy", at, bit)
        with pytest.raises(errors.BankError, match=r"order\.npy is damaged"):
            asked(addition, copy)
        flip(copy / "shard-00000" / "order.npy", at, bit)
    assert asked(addition, copy)


def test_rows_are_checked_wherever_they_are_read(copy: Path, addition: iv.Study) -> None:
    """Reading some rows tells damage among them; the rest of the bank may be read as before."""
    path = copy / "shard-00001" / "activations.npy"
    flip(path, path.stat().st_size - 1)  # of the last row at A2
    bank = ActivationBank.open(copy, addition.model, addition.inputs)
    assert bank.activations("x0.post", "=", np.arange(1000)).isfinite().all()
    with pytest.raises(errors.BankError, match="damaged"):
        bank.activations("x0.post", "A2", np.array([1999]))
    with pytest.raises(errors.BankError, match="damaged"):
        bank.activations("x0.post", "A2", np.array([5, 1999]))


@pytest.mark.parametrize("swap", [("shard-00000", "shard-00001"), ("other", "shard-00000")])
def test_a_shard_of_another_place_is_told(copy: Path, addition: iv.Study, tmp_path: Path, swap: tuple[str, str]) -> None:
    """Whole and sound, but not of this bank, or not here."""
    other = tmp_path / "else"
    iv.build_bank(addition, other, rows=2000, sites="a0.*,x0.post", positions=["=", "A2"], precision="float32")
    source = other / "shard-00000" if swap[0] == "other" else copy / "shard-00000"
    shutil.rmtree(copy / swap[1])
    shutil.copytree(source, copy / swap[1])
    with pytest.raises(errors.BankError, match="damaged"):
        asked(addition, copy)


FORGED: list[tuple[str, Change, str]] = [
    ("no inputs", lambda m: m.update(inputs=0), "inputs"),
    ("fewer than none", lambda m: m.update(inputs=-1), "inputs"),
    ("too many", lambda m: m.update(inputs=10**15), "inputs"),
    ("more than the corpus", lambda m: m.update(inputs=810_001), "inputs"),
    ("no number", lambda m: m.update(inputs="x"), "inputs"),
    ("no sites", lambda m: m.update(sites=[]), "sites"),
    ("an unknown site", lambda m: m.update(sites=["a0.0", "a7.1"]), "sites"),
    ("no site", lambda m: m.update(sites=["../../x"]), "sites"),
    ("a site twice", lambda m: m.update(sites=["a0.0", "a0.0"]), "sites"),
    ("no positions", lambda m: m.update(positions=[]), "positions"),
    ("an unknown position", lambda m: m.update(positions=["B9"]), "positions"),
    ("no width", lambda m: m.update(d_model=0), "d_model"),
    ("another width", lambda m: m.update(d_model=2**20), "d_model"),
    ("another head", lambda m: m.update(d_head=7), "d_head"),
    ("another precision", lambda m: m.update(precision="int8"), "precision"),
    ("another distance", lambda m: m.update(distance="taxi"), "distance"),
    ("an earlier version", lambda m: m.update(format=3), "earlier version"),
    ("a later version", lambda m: m.update(format=5), "format"),
    ("something more", lambda m: m.update(more=1), "more"),
    ("another model", lambda m: m.update(fingerprint="0" * 16), "another probed model"),
    ("another corpus", lambda m: m.update(corpus="0" * 16), "another corpus"),
]  # fmt: skip


@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "unsealed"])
@pytest.mark.parametrize(("change", "said"), [entry[1:] for entry in FORGED], ids=[entry[0] for entry in FORGED])
def test_forged_manifests(copy: Path, addition: iv.Study, change: Change, said: str, seal: bool) -> None:
    path = copy / "manifest.json"
    held = json.loads(path.read_text())
    del held["checksum"]
    change(held)
    path.write_text(json.dumps(sealed(held) if seal else held))
    with pytest.raises((errors.BankError, errors.MismatchError), match=said) as caught:
        asked(addition, copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "null", '{"inputs": NaN}', "\x00", "\udcff"])
def test_manifests_that_are_none(copy: Path, addition: iv.Study, text: str) -> None:
    (copy / "manifest.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(errors.BankError, match=r"manifest\.json is damaged"):
        asked(addition, copy)


def test_a_manifest_is_changed_by_hand_only_with_its_bank(copy: Path, addition: iv.Study) -> None:
    path = copy / "manifest.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "inputs": 1999}))
    with pytest.raises(errors.BankError, match='delete the line "checksum"'):
        asked(addition, copy)
    del held["checksum"]
    path.write_text(json.dumps({**held, "inputs": 1999}))
    with pytest.raises(errors.BankError, match="of another bank"):
        asked(addition, copy)
    path.write_text(json.dumps(held))  # without a checksum: as one written by hand
    assert asked(addition, copy)


def test_check_reads_all_of_a_bank(addition: iv.Study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder = tmp_path / "run"
    build = ("bank", "addition", "--inputs", "1200", "--out", str(run_folder), "--sites", "a0.*,x0.post", "--positions", "=,A2")
    check = ("bank", "addition", "--out", str(run_folder), "--check")
    assert command(capsys, *check)[0] == 2
    assert command(capsys, *build)[0] == 0
    code, out, _ = command(capsys, *check)
    assert code == 0
    assert "All sound: 1,200 inputs × 5 sites × 2 positions" in out
    shard = run_folder / "bank" / "shard-00000"
    for name, at in (("activations", 70_000), ("hashes", 5000)):
        flip(shard / f"{name}.npy", at)
    code, out, err = command(capsys, *check)
    assert (code, out) == (2, "")
    assert "damaged (shard-00000/activations.npy, shard-00000/hashes.npy)" in err
    assert command(capsys, *build)[0] == 0
    assert command(capsys, *check)[0] == 0
    (shard / CHECKSUMS).unlink()
    assert "shard-00000/checksums.json" in command(capsys, *check)[2]


@pytest.mark.parametrize("file", ["index.faiss", "settings-0.3.json", "index.checksum"])
def test_a_damaged_approximate_index_is_told(copy: Path, addition: iv.Study, file: str) -> None:
    query = addition.query("615+861=1476", at="=", site="x0.post")
    iv.search(addition, query, epsilon=0.3, bank=copy, approximate=True, fixed="=")
    path = copy / "faiss" / "x0.post@=" / file
    flip(path, path.stat().st_size // 2)
    with pytest.raises(errors.BankError, match=r"approximate index in .* is damaged"):
        iv.search(addition, query, epsilon=0.3, bank=copy, approximate=True, fixed="=")


# -- runs -----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "gpt2"
    make_model(folder)
    return folder


@pytest.fixture
def texts(model: Path, tmp_path: Path) -> Path:
    """A run of texts without a decoder, of a model of its own."""
    own = shutil.copytree(model, tmp_path / "model")
    vocabulary = Vocabulary.from_folder(own)
    TextInputs.tokenize([f"ann has {n} figs" for n in range(60)], vocabulary, folder=tmp_path / "run" / "corpus")
    spec = StudySpec(inputs="texts", model=str(own), files=model_files(str(own)), sites=["x1.post"], site="x1.post")
    write_spec(tmp_path / "run", spec)
    return tmp_path / "run"


def searched(folder: Path) -> int:
    opened = iv.load(folder)
    bank = iv.build_bank(opened, folder / "bank", rows=60)
    return len(iv.search(opened, opened.query(TEXT, at="END", site=SITE), epsilon=0.3, bank=bank))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epsilon": 0}, "epsilon"),
        ({"epsilon": -1}, "epsilon"),
        ({"epsilon": "x"}, "epsilon"),
        ({"epsilon": float("nan")}, "NaN is no number"),
        ({"epsilon": float("inf")}, "Infinity is no number"),
        ({"rows": 0}, "rows"),
        ({"width": -1}, "width"),
        ({"sites": []}, "sites"),
        ({"sites": "x1.post"}, "sites"),
        ({"distance": "taxi"}, "distance"),
        ({"inputs": "novels"}, "inputs"),
        ({"options": {"names": "Ann"}}, "names are a list"),
        ({"options": {"facts": ["a"]}}, "facts a path"),
        ({"options": {"x": 3}}, "options"),
        ({"more": 1}, "more"),
    ],
)
@pytest.mark.parametrize("seal", [True, False], ids=["sealed", "unsealed"])
def test_forged_settings(tmp_path: Path, change: dict[str, Any], said: str, seal: bool) -> None:
    """As all of ``study.json`` is read before anything else, a model is not needed."""
    spec = StudySpec(inputs="texts", model="none", sites=["x1.post"], site="x1.post").model_dump()
    held = {**spec, **change}
    (tmp_path / "study.json").write_text(json.dumps(sealed(held) if seal else held))
    with pytest.raises(errors.UnknownStudyError, match=rf"study\.json is damaged \(.*{said}") as caught:
        iv.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_settings_may_be_changed_by_hand(texts: Path) -> None:
    path = texts / "study.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps({**held, "epsilon": 0.2}))
    with pytest.raises(errors.UnknownStudyError, match='delete the line "checksum"'):
        iv.load(texts)
    del held["checksum"]
    path.write_text(json.dumps({**held, "epsilon": 0.2}))
    assert iv.load(texts).spec.epsilon == 0.2


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_a_run_is_of_the_files_of_its_model(texts: Path, name: str) -> None:
    assert searched(texts) > 0
    path = Path(iv.load(texts).spec.model) / name
    flip(path, path.stat().st_size - 3)
    with pytest.raises(errors.WeightsError, match=rf"{name} is damaged, or not what the run"):
        iv.load(texts)
    if name == "model.safetensors":  # changed on purpose, and said so
        held = json.loads((texts / "study.json").read_text())
        del held["checksum"], held["files"]
        (texts / "study.json").write_text(json.dumps(held))
        with pytest.raises(errors.MismatchError, match="another fingerprint"):
            searched(texts)


def test_a_damaged_corpus_is_told(texts: Path) -> None:
    for path in sorted((texts / "corpus").iterdir()):
        whole = path.read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 2):
            flip(path, at, bit=2)
            with pytest.raises(errors.InputError, match=r"corpus in .* is damaged"):
                assert iv.load(texts).inputs
            path.write_bytes(whole)
        path.unlink()
        if path.name != CHECKSUMS:
            with pytest.raises(errors.InputError, match=r"corpus in .* is damaged"):
                assert iv.load(texts).inputs
        path.write_bytes(whole)
    (texts / "corpus" / CHECKSUMS).unlink()  # as of an earlier version
    assert len(iv.load(texts).inputs) == 60


@pytest.mark.parametrize(("rows", "said"), [
    ([[37, 99, 38]] * 60, "vocabulary"),
    ([[37, -1, 38]] * 60, "vocabulary"),
    ([[37, 2**40, 38]] * 60, "vocabulary"),
    ([[37, 1, 38], []] * 60, "empty"),
    ([[37, *[1] * 40, 38]] * 60, "longer texts than"),
    ([["a"]] * 60, "damaged"),
])  # fmt: skip
def test_a_forged_corpus_is_told(texts: Path, rows: list[list[Any]], said: str) -> None:
    shutil.rmtree(texts / "corpus")
    Dataset.from_dict({"tokens": rows}).save_to_disk(str(texts / "corpus"))
    content = sealed({"files": digests(texts / "corpus", (".arrow", ".json"))})
    (texts / "corpus" / CHECKSUMS).write_text(json.dumps(content))
    with pytest.raises(errors.InputError, match=said):
        assert iv.load(texts).inputs


def test_tokens_are_those_that_were_given(model: Path) -> None:
    vocabulary = Vocabulary.from_folder(model)
    lines = [f"{'ab' * (n % 5 + 1)} {n}" for n in range(90)]
    inputs = TextInputs.tokenize(lines, vocabulary)
    rows = np.array([3, 89, 0, 3])
    found = inputs.tokens(rows)
    for row, ids in zip(rows, found, strict=True):
        wanted = vocabulary.encode(lines[row])
        assert ids.tolist() == wanted + [inputs.pad] * (inputs.max_length - len(wanted))
    assert inputs.tokens(rows[:0]).shape == (0, inputs.max_length)


# -- models ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["gpt2", "bridge"])
def checkpoint(request: pytest.FixtureRequest, model: Path, own_model: Path, tmp_path: Path) -> Path:
    """A checkpoint for each backend."""
    return Path(shutil.copytree(model if request.param == "gpt2" else own_model, tmp_path / "checkpoint"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(checkpoint: Path, value: float) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    name = sorted(weights)[2]
    weights[name].view(-1)[1] = value
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(errors.WeightsError, match="holds NaN or infinity"):
        ProbedModel.from_pretrained(checkpoint)


@pytest.mark.parametrize("key", ["n_embd", "vocab_size", "n_inner", "n_layer", "n_head", "n_positions",
                                 "hidden_size", "intermediate_size", "num_hidden_layers", "head_dim"])  # fmt: skip
def test_sizes_are_held_against_the_file_before_memory_is_taken(checkpoint: Path, key: str) -> None:
    """2²⁶: a few tensors would take more than any machine has."""
    config = json.loads((checkpoint / "config.json").read_text())
    if key not in config:
        pytest.skip("of the other architecture")
    (checkpoint / "config.json").write_text(json.dumps({**config, key: 2**26}))
    with pytest.raises(errors.WeightsError) as caught:
        ProbedModel.from_pretrained(checkpoint)
    assert "allocate" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("forge", ["length", "offsets", "shape", "cut"])
def test_forged_headers_of_weights_are_told(checkpoint: Path, forge: str) -> None:
    path = checkpoint / "model.safetensors"
    held = path.read_bytes()
    length = int.from_bytes(held[:8], "little")
    header = json.loads(held[8 : 8 + length])
    first = header[sorted(key for key in header if key != "__metadata__")[0]]
    if forge == "offsets":
        first["data_offsets"] = [0, 2**60]
    if forge == "shape":
        first["shape"] = [2**40, 2**40]
    new = json.dumps(header).encode()
    start = 2**62 if forge == "length" else len(new)
    path.write_bytes(start.to_bytes(8, "little") + new + (b"" if forge == "cut" else held[8 + length :]))
    with pytest.raises(errors.WeightsError):
        ProbedModel.from_pretrained(checkpoint)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_bytes_of_a_checkpoint_never_end_in_a_traceback(checkpoint: Path, file: str) -> None:
    """Nothing states what they were; what cannot be read is told in one sentence."""
    path, rng = checkpoint / file, np.random.default_rng(7)
    whole = path.read_bytes()
    for _ in range(6):
        flip(path, int(rng.integers(len(whole))), int(rng.integers(8)))
        said = ""
        try:
            ProbedModel.from_pretrained(checkpoint).encode(TEXT)
        except errors.InversionViewError as error:
            said = str(error)
        assert "\n" not in said
        path.write_bytes(whole)


def test_what_is_shipped_is_as_it_was_shipped() -> None:
    held = [shipped.FILES / part for part in shipped.CARRIED]
    files = [file for path in held for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    stated = json.loads((shipped.FILES / CHECKSUMS).read_text())["files"]
    assert sorted(stated) == sorted(file.relative_to(shipped.FILES).as_posix() for file in files)
    for part in shipped.CARRIED:
        shipped.check_shipped(part)


def test_a_damaged_installation_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shipped, "FILES", shutil.copytree(shipped.FILES, tmp_path / "files"))
    flip(tmp_path / "files" / "counting" / "model" / "config.json", 100)
    with pytest.raises(errors.WeightsError, match="install inversionview again"):
        iv.load("counting")
    iv.load("addition")
    flip(tmp_path / "files" / CHECKSUMS, 100)
    with pytest.raises(errors.WeightsError, match="install inversionview again"):
        iv.load("addition")


@pytest.mark.parametrize(("width", "kind"), [(8, "float16"), (7, "float16"), (64, "float16"), (3, "float32")])
def test_the_checksum_of_a_vector_tells_every_flipped_bit(width: int, kind: str) -> None:
    rng = np.random.default_rng(width)
    x = rng.normal(size=(3, width)).astype(kind)
    plain = sums_of(x)
    for at, bit in product(range(x[1].nbytes), range(8)):
        other = x.copy()
        other[1].view(np.uint8)[at] ^= 1 << bit
        assert ((sums_of(other) != plain) == [False, True, False]).all()
