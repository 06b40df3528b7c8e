"""A decoder or checkpoint that was damaged or forged is told in a sentence: no other answer, no traceback, no memory taken."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import inversionview as iv
from inversionview.cli import main
from inversionview.core import errors
from inversionview.core import optim as iv_optim
from inversionview.core.integrity import KEY, file_digest, sealed
from inversionview.decoder.checkpoint import Standing, load_checkpoint
from inversionview.decoder.config import DecoderConfig
from inversionview.decoder.decoder import Decoder
from inversionview.decoder.sampling import sample, token_log_probs
from inversionview.decoder.scoring import PrefixTree, log_probs
from inversionview.decoder.scratch import ScratchDecoder
from inversionview.decoder.training import optimizers_of
from inversionview.runs.train_probed import train_shipped
from inversionview.studies.load import keep
from tests.conftest import sentences
from tests.test_pretrained import base as base
from tests.test_pretrained import decoder_on

CONFIG = DecoderConfig(
    ("x0.pre", "a0.1"), 6, 5, 5, bos=2, eos=3, pad=4, layers=2, heads=2, width=16, pathway=16, rank=4, cells=2, blocks=1,
    hidden=16,
)  # fmt: skip
RUN = iv.TrainConfig(minutes=None, steps=8, batch=8, groups=2, pool=4, evaluations=1, queries=2)
SIZES = {"width": 16, "layers": 1, "pathway": 16, "cells": 2, "hidden": 16, "blocks": 1}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    ScratchDecoder(CONFIG).save_pretrained(tmp_path / "decoder")
    return tmp_path / "decoder"


def flip(content: bytes, place: int, bit: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :]


def places(size: int, count: int) -> list[tuple[int, int]]:
    rng = np.random.default_rng(size)
    return [(int(place), int(rng.integers(8))) for place in rng.choice(size, count, replace=False)]


def refused(read: Callable[[], Any]) -> str:
    """The sentence with which something is refused."""
    with pytest.raises(errors.WeightsError) as caught:
        read()
    said = str(caught.value)
    assert "\n" not in said.strip()
    assert said.endswith((".", '".'))
    return said


def rewrite(path: Path, unsealed: bool = True, **changes: Any) -> None:
    """Change a JSON file, as someone does who knows how: its checksum is left out, or made anew."""
    content = {key: value for key, value in json.loads(path.read_text()).items() if key != KEY} | changes
    path.write_text(json.dumps(content if unsealed else sealed(content)))


# -- a decoder ---------------------------------------------------------------------------------------------------------


def test_the_configuration_holds_the_checksums(saved: Path) -> None:
    content = json.loads((saved / "config.json").read_text())
    assert content["weights"] == file_digest(saved / "model.safetensors")
    assert content == sealed(content)
    assert Decoder.from_pretrained(saved).config == CONFIG


@pytest.mark.parametrize("study", ["counting", "addition"])
def test_shipped_decoders_hold_theirs(study: str) -> None:
    folder = iv.load(study).decoder_path
    content = json.loads((folder / "config.json").read_text())
    assert content["weights"] == file_digest(folder / "model.safetensors")
    assert content == sealed(content)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_flipped_bit_anywhere_is_damage(saved: Path, name: str) -> None:
    path = saved / name
    content = path.read_bytes()
    for place, bit in places(len(content), 150):
        path.write_bytes(flip(content, place, bit))
        assert f"{path} is damaged" in refused(lambda: Decoder.from_pretrained(saved))


def test_a_decoder_without_checksums_is_read_and_its_damage_does_no_harm(saved: Path) -> None:
    """As older ones are: what a flipped bit makes of it is refused, or a decoder of finite weights."""
    path, weights = saved / "config.json", saved / "model.safetensors"
    content = {key: value for key, value in json.loads(path.read_text()).items() if key not in (KEY, "weights")}
    path.write_text(json.dumps(content))
    assert Decoder.from_pretrained(saved).config == CONFIG
    for file in (path, weights):
        whole, read = file.read_bytes(), 0
        for place, bit in places(len(whole), 150):
            file.write_bytes(flip(whole, place, bit))
            try:
                decoder = Decoder.from_pretrained(saved)
            except errors.WeightsError:
                continue
            read += 1
            assert all(bool(tensor.isfinite().all()) for tensor in decoder.state_dict().values())
        file.write_bytes(whole)
        assert read < 150


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_weights_that_are_not_finite_are_refused_whatever_the_checksum_says(saved: Path, value: float) -> None:
    weights = load_file(saved / "model.safetensors")
    weights["norm.weight"][3] = value
    save_file(weights, saved / "model.safetensors")
    rewrite(saved / "config.json", unsealed=False, weights=file_digest(saved / "model.safetensors"))
    assert "norm.weight holds NaN or infinite numbers" in refused(lambda: Decoder.from_pretrained(saved))


FORGED: list[dict[str, Any]] = [
    *({name: 2**20} for name in ("width", "d_model", "max_length", "pathway", "rank", "cells", "hidden", "occurrences")),
    *({name: 10**6} for name in ("layers", "blocks", "lora")),
    *({"heads": value} for value in (0, -4, 3, 2**40, 2.0, "4", None, [4])),
    *({"width": value} for value in (0, -16, 10**30, 1e400, "x", True)),
    *({"vocabulary": value} for value in (0, -1, 2**20, 2**62)),
    *({"sites": value} for value in ([], ["x0.pre"] * 2, ["nonsense", "a0.1"], "x0.pre", [1, 2], None, ["x0.pre"] * 10**5)),
    *({name: value} for name in ("bos", "eos", "pad") for value in (-1, 10**9)),
    *({"tokens": value} for value in ([1, 1], [0, 2, 3, 10**9], [-1, 2, 3], [3, 2])),
    {"tokens": list(range(5)), "vocabulary": 2**40},
    {"tokens": [2, 3], "shares": [0.5, -1]},
    {"unheard": 1},
    {"weights": 5},
    {"tuning": "none"},
    {"base": 7},
    {"base": "/no/such/place"},
]
"""Settings that no decoder of these files has; and numbers that JSON can hold, but Python cannot (1e400 is infinite)."""
LIMITED = """
import json, resource, sys
from pathlib import Path
import torch
from inversionview.decoder.decoder import Decoder
from inversionview.core.errors import WeightsError

folder, forged = Path(sys.argv[1]), json.load(sys.stdin)
import inversionview.decoder.pretrained
sound = json.loads((folder / "config.json").read_text())
del sound["checksum"]
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
for changes in forged:
    (folder / "config.json").write_text(json.dumps(sound | changes))
    try:
        Decoder.from_pretrained(folder)
        print("accepted")
    except WeightsError as error:
        print(str(error).replace(chr(10), "|"))
"""


def test_settings_that_do_not_fit_the_weights_take_no_memory(saved: Path) -> None:
    """A process that may take a quarter of a gigabyte, while the largest of these would be exabytes."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(saved)], input=json.dumps(FORGED), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == len(FORGED)
    for changes, sentence in zip(FORGED, said, strict=True):
        assert str(saved) in sentence or "/no/such/place" in sentence, (changes, sentence)
        assert "accepted" not in sentence
        assert "|" not in sentence
        assert "emory" not in sentence


def test_garbled_json_is_damage(saved: Path) -> None:
    for content in (b"", b"[", b"[]", b"3", b"null", b"\xff\xfe", b"{" * 10**5, b'{"layers": ' + b"9" * 10**4 + b"}"):
        (saved / "config.json").write_bytes(content)
        assert "config.json is damaged" in refused(lambda: Decoder.from_pretrained(saved))


def test_adapters_and_trained_lms_are_held_against_their_files(base: Path, tmp_path: Path) -> None:
    decoder = decoder_on(base, tuning="lora", lora=2)
    decoder.save_pretrained(tmp_path / "lora")
    path = tmp_path / "lora" / "model.safetensors"
    content = path.read_bytes()
    for place, bit in places(len(content), 20):
        path.write_bytes(flip(content, place, bit))
        assert "is damaged" in refused(lambda: Decoder.from_pretrained(tmp_path / "lora"))
    path.write_bytes(content)
    for changes in ({"lora": 2**15}, {"pathway": 2**16}, {"blocks": 900}, {"rank": 2**16}, {"d_model": 2**16}):
        rewrite(
            tmp_path / "lora" / "config.json", **({"lora": 2, "pathway": 12, "blocks": 1, "rank": 4, "d_model": 6} | changes)
        )
        refused(lambda: Decoder.from_pretrained(tmp_path / "lora"))


def test_the_architecture_of_a_trained_lm_is_held_against_its_file(base: Path, tmp_path: Path) -> None:
    plain = decoder_on(base, tuning="full")
    architecture = plain.lm.config.to_dict()
    kept = type(plain)(DecoderConfig(**{**vars(plain.config), "architecture": architecture}), plain.lm)
    kept.save_pretrained(tmp_path / "full")
    Decoder.from_pretrained(tmp_path / "full")
    sizes = [key for key in architecture if key in ("hidden_size", "n_embd", "vocab_size", "intermediate_size")]
    layers = [key for key in architecture if key in ("num_hidden_layers", "n_layer")]
    assert sizes
    assert layers
    forged = [*({key: 2**20} for key in sizes), *({key: value} for key in layers for value in (3, 10**7, -1, "x"))]
    for changes in (*forged, {"model_type": "nothing"}, {"model_type": None}):
        rewrite(tmp_path / "full" / "config.json", architecture=architecture | changes)
        refused(lambda: Decoder.from_pretrained(tmp_path / "full"))


# -- numbers that are finite until they are computed with --------------------------------------------------------------


def test_a_decoder_that_computes_nan_says_so(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights of 1e30 are finite, their products are not: no samples, no scores, no good ratio of 0.0."""
    decoder = Decoder.from_pretrained(saved)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.fill_(1e30)
    z, site = torch.randn(3, 6), torch.zeros(3, dtype=torch.long)
    tokens = torch.tensor([[2, 0, 1, 3, 4]])
    for work in (
        lambda: sample(decoder, z, site),
        lambda: token_log_probs(decoder, tokens, z[:1], site[:1]),
        lambda: log_probs(decoder, PrefixTree.of(tokens.numpy(), 4), z[:1], 0),
        lambda: log_probs(decoder, PrefixTree.of(tokens.numpy(), 4), z[:1], 0, floors=[-5.0]),
    ):
        assert "NaN or infinite" in refused(work)


def test_evaluate_of_such_a_decoder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped = iv.load("counting")
    decoder = shipped.decoder
    with torch.no_grad():
        decoder.norm.weight.mul_(1e38)
        decoder.lm_head.weight.mul_(1e38)
    keep(shipped, tmp_path)
    decoder.save_pretrained(tmp_path / "decoder")
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(tmp_path), "--queries", "2", "--json"])
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert out == ""
    assert "NaN or infinite" in err


# -- a checkpoint ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(own_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Tensor]]:
    """What trains a run of two pools into a folder, or what lacks of it."""
    model = iv.ProbedModel.from_pretrained(own_model)
    inputs = iv.TextInputs.tokenize(sentences(), model.tokenizer)

    def train(folder: Path | None, config: iv.TrainConfig = RUN, **options: Any) -> dict[str, Tensor]:
        return iv.train(model, inputs, ["x0.post", "a0.1"], config, folder, **SIZES, **options).kept()

    return train


class CutError(Exception):
    """Raised after the first pool."""


def cut(*_: object) -> None:
    raise CutError


@pytest.fixture
def begun(trained: Callable[..., Any], tmp_path: Path) -> Path:
    """A run that was ended after its first pool of two."""
    with pytest.raises(CutError):
        trained(tmp_path / "run", report=cut)
    return tmp_path / "run"


@pytest.fixture(scope="module")
def whole(trained: Callable[..., Any]) -> dict[str, Tensor]:
    return trained(None)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.fixture
def load(begun: Path) -> Callable[[], Standing | None]:
    """What goes on from the checkpoint of a run, as training does, into a decoder of its own."""
    stated = json.loads((begun / "checkpoints" / "last" / "progress.json").read_text())
    decoder = ScratchDecoder(DecoderConfig(**stated["settings"]["decoder"]))
    optimizers = optimizers_of(decoder, RUN)
    progress = Standing(stated["fingerprint"], stated["settings"], stated["weights"])
    return lambda: load_checkpoint(begun / "checkpoints" / "last", progress, decoder, optimizers)


def test_a_flipped_bit_in_a_checkpoint_is_damage(
    begun: Path, load: Callable[[], Any], trained: Callable[..., Any], whole: Any
) -> None:
    last = begun / "checkpoints" / "last"
    for name in ("progress.json", "state.safetensors"):
        content = (last / name).read_bytes()
        for number, (place, bit) in enumerate(places(len(content), 100)):
            (last / name).write_bytes(flip(content, place, bit))
            said = refused(load if number else lambda: trained(begun))
            assert f"{last} is damaged" in said
            assert "delete it to begin anew" in said
        (last / name).write_bytes(content)
    assert same(trained(begun), whole)


def test_a_checkpoint_without_checksums_is_gone_on_from(
    begun: Path, load: Callable[[], Any], trained: Callable[..., Any], whole: Any
) -> None:
    """As older ones are: what a flipped bit makes of it is refused, or the state of a decoder of finite weights."""
    path = begun / "checkpoints" / "last" / "progress.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in content.items() if key not in (KEY, "state")}))
    for file in (path, path.with_name("state.safetensors")):
        sound = file.read_bytes()
        for place, bit in places(len(sound), 100):
            file.write_bytes(flip(sound, place, bit))
            with suppress(errors.WeightsError, errors.MismatchError):
                load()
        file.write_bytes(sound)
    assert same(trained(begun), whole)


def test_forged_progress_is_refused(begun: Path, load: Callable[[], Any]) -> None:
    path = begun / "checkpoints" / "last" / "progress.json"
    sound = json.loads(path.read_text())
    weights = sound["weights"]
    forged = [
        *({"pool": value} for value in (-1, 0, 2, 10**30, 1.0, "1", None)),
        *({"step": value} for value in (-4, 0, 3, 5, 10**30, float("nan"))),
        *({"pairs": value} for value in (-1, 0, 33)),
        *({"seconds": value} for value in (-1.0, float("nan"), float("inf"), "x")),
        *({"evaluated": value} for value in (-1, 2, 10**9)),
        *({"weights": value} for value in ([], weights[:1], [row[:-1] for row in weights], weights + weights, "x", 1)),
        *({"weights": [[value] * len(row) for row in weights]} for value in (float("nan"), float("inf"), -1.0, 0.0, "x")),
        {"settings": []},
        {"unheard": 1},
        {"state": 5},
    ]
    for changes in forged:
        path.write_text(json.dumps(sealed(sound | changes)))
        said = refused(load)
        assert "checkpoints/last is damaged" in said, changes


def test_a_state_of_other_tensors_is_refused(begun: Path, load: Callable[[], Any]) -> None:
    last = begun / "checkpoints" / "last"
    state, sound = load_file(last / "state.safetensors"), json.loads((last / "progress.json").read_text())
    moments = [name for name in state if name.endswith("exp_avg_sq")]
    momentum = next(name for name in state if name.endswith("momentum"))
    weight = next(name for name in state if name.startswith("model.") and state[name].ndim == 2)
    for changes in (
        {weight: state[weight][:1]},
        {weight: torch.full_like(state[weight], torch.nan)},
        {weight: state[weight].long()},
        {momentum: torch.ones(2)},
        {momentum: torch.full_like(state[momentum], torch.inf)},
        {moments[0]: state[moments[0]][..., None]},
        {moments[0]: None},
        {"optimizer.7.0.momentum": torch.ones(2)},
        {"optimizer.0.999.momentum": torch.ones(2)},
        {"optimizer.x": torch.ones(2)},
        {"other": torch.ones(2)},
    ):
        forged = {name: tensor.contiguous() for name, tensor in (state | changes).items() if tensor is not None}
        save_file(forged, last / "state.safetensors")
        digest = file_digest(last / "state.safetensors")
        (last / "progress.json").write_text(json.dumps(sealed(sound | {"state": digest})))
        assert "is damaged" in refused(load), changes.keys()


def test_damaged_metrics_do_not_stop_a_run(begun: Path, trained: Callable[..., Any], whole: Any) -> None:
    path = begun / "metrics.jsonl"
    rows = [
        b"\xff\xfe",
        b"[]",
        b"3",
        b"{",
        b'{"step": "x"}',
        b'{"step": null}',
        b'{"step": 1e400}',
        b'{"step": 99}',
        b"[" * 10**5,
    ]
    path.write_bytes(b"\n".join([path.read_bytes().strip(), *rows]))
    assert same(trained(begun), whole)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [4, 8]


def test_metrics_go_on_as_if_nothing_was(trained: Callable[..., Any], tmp_path: Path) -> None:
    """A good ratio stands in every line after it was measured, also after the run was ended between two measurements."""
    config = replace(RUN, steps=16, evaluations=2)
    trained(tmp_path / "whole", config)

    def cut_late(share: float, _: object) -> None:
        if share >= 0.5:
            raise CutError

    with pytest.raises(CutError):
        trained(tmp_path / "cut", config, report=cut_late)
    trained(tmp_path / "cut", config)
    whole, cut = ((tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "cut"))
    timed = dict.fromkeys(("seconds", "pairs_per_second"))
    assert [json.loads(line) | timed for line in cut] == [json.loads(line) | timed for line in whole]
    assert [json.loads(line).keys() >= {"good_ratio"} for line in cut] == [False, True, True, True]


# -- divergence --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [1e30, float("nan")])
def test_a_training_that_diverges_stops_and_keeps_the_last_good_checkpoint(
    trained: Callable[..., Any], whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    """Rates that are right in the first pool and absurd from then on; without them the run then goes on as if nothing was."""
    schedule = iv_optim.schedule
    with monkeypatch.context() as patch:
        patch.setattr(iv_optim, "schedule", lambda done, **how: schedule(done, **how) if done < 0.5 else factor)
        with pytest.raises(errors.DivergenceError, match="step 4"):
            trained(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "checkpoints" / "last" / "progress.json").read_text())["step"] == 4
    assert not (tmp_path / "run" / "decoder").exists()
    assert same(trained(tmp_path / "run"), whole)


def test_a_probed_model_that_diverges_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iv_optim, "schedule", lambda *_, **__: 1e30)
    with pytest.raises(errors.DivergenceError):
        train_shipped("counting", tmp_path / "model", inputs=4096)
    assert list(tmp_path.iterdir()) == []
