"""What is asked of a loaded model finds what is wrong, and nothing else; what it found is kept by the model's files."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import inversionview as iv
from inversionview.core.errors import WeightsError
from inversionview.model import soundness as module
from inversionview.model.backend import Backend, Patch
from inversionview.model.gpt2 import GPT2Backend
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.kind import Kind
from inversionview.model.sites.site import Site
from inversionview.model.soundness import Soundness, soundness
from tests.test_architectures import ARCHITECTURES, save


@pytest.fixture(scope="module", params=["gpt2", "llama", "pythia"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model for each backend, and one without x.mid."""
    path = tmp_path_factory.mktemp(request.param)
    save(ARCHITECTURES[request.param], path)
    return path


@pytest.fixture(scope="module")
def backend(folder: Path) -> Backend:
    made = ProbedModel.from_pretrained(folder).backend
    assert isinstance(made, GPT2Backend) == ("gpt2" in folder.name)
    return made


class Wrong:
    """A backend that does one thing wrong, all else as it should."""

    def __init__(self, backend: Backend, **wrong: Callable[..., Any]) -> None:
        self._backend, self._wrong = backend, wrong

    def __getattr__(self, name: str) -> Any:
        return self._wrong.get(name) or getattr(self._backend, name)


def reads_wrongly(backend: Backend, kind: Kind, how: Callable[[Tensor], Tensor]) -> Any:
    def activations(tokens: Tensor, mask: Tensor | None, sites: Sequence[Site], positions: Tensor) -> Tensor:
        z = backend.activations(tokens, mask, sites, positions).clone()
        for i, site in enumerate(sites):
            if site.kind == kind:
                z[i] = how(z[i])
        return z

    return Wrong(backend, activations=activations)


def writes_wrongly(backend: Backend, kind: Kind, how: Callable[[Patch], Patch]) -> Any:
    def logits(tokens: Tensor, mask: Tensor | None, patches: Any = None) -> Tensor:
        made = {site: how(patch) if site.kind == kind else patch for site, patch in (patches or {}).items()}
        return backend.logits(tokens, mask, {site: patch for site, patch in made.items() if len(patch.positions)})

    return Wrong(backend, logits=logits)


def test_nothing_is_found_of_a_sound_model(backend: Backend) -> None:
    assert soundness(backend, "it") == Soundness()


@pytest.mark.parametrize("kind", ["pre", "head", "mid", "mlp", "post"])
def test_a_kind_that_is_read_wrongly_is_not_offered(backend: Backend, kind: Kind) -> None:
    if kind not in {site.kind for site in backend.shape.sites}:
        return
    for how in (lambda z: 1.05 * z, lambda z: z.roll(1, -1), lambda z: torch.zeros_like(z), lambda z: z.roll(1, -2)):
        if kind == "post":  # by which is told whether a model is causal
            found = soundness(reads_wrongly(backend, kind, lambda z: 1.05 * z), "it")
        else:
            found = soundness(reads_wrongly(backend, kind, how), "it")
        assert list(found.lacking) == [kind]
        assert not found.adds_up or kind == "head"


@pytest.mark.parametrize("kind", ["pre", "head", "mid", "mlp", "post"])
def test_a_kind_that_is_written_wrongly_is_not_offered(backend: Backend, kind: Kind) -> None:
    if kind not in {site.kind for site in backend.shape.sites}:
        return
    found = soundness(
        writes_wrongly(backend, kind, lambda p: Patch(p.positions, p.values + torch.linspace(0, 1, 32), p.rows)), "it"
    )
    assert list(found.lacking) == [kind]


@pytest.mark.parametrize("kind", ["pre", "mid", "post"])
def test_a_patch_that_does_nothing_is_found(backend: Backend, kind: Kind) -> None:
    """Put back where it was read it would change nothing, either: another text's tells."""
    if kind not in {site.kind for site in backend.shape.sites}:
        return
    found = soundness(writes_wrongly(backend, kind, lambda p: Patch(p.positions[:0], p.values[:0], p.rows)), "it")
    assert "another text's" in found.lacking[kind]


def test_a_stream_that_is_none_is_refused(backend: Backend) -> None:
    wrong = reads_wrongly(reads_wrongly(backend, "pre", lambda z: z * 2), "post", lambda z: z * 2)
    with pytest.raises(WeightsError, match="What is read of it is not its residual stream"):
        soundness(wrong, "it")


def test_what_follows_and_padding_are_found(backend: Backend) -> None:
    def looks_ahead(tokens: Tensor, mask: Tensor | None, sites: Sequence[Site], positions: Tensor) -> Tensor:
        z = backend.activations(tokens, mask, sites, positions)
        return z + 0.1 * tokens.size(1) if mask is None else z

    with pytest.raises(WeightsError, match="looks at what follows"):
        soundness(Wrong(backend, activations=looks_ahead), "it")  # type: ignore[arg-type]

    def counts_padding(tokens: Tensor, mask: Tensor | None, sites: Sequence[Site], positions: Tensor) -> Tensor:
        return backend.activations(tokens, None, sites, positions)

    with pytest.raises(WeightsError, match="Padding changes"):
        soundness(Wrong(backend, activations=counts_padding), "it")  # type: ignore[arg-type]


def test_parts_that_enter_otherwise_are_found(backend: Backend) -> None:
    assert not soundness(Wrong(backend, entering=lambda layer: lambda x: x * 1.1), "it").adds_up  # type: ignore[arg-type]
    assert not soundness(Wrong(backend, final_norm=lambda x: x.roll(1, -1)), "it").adds_up  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [2, 3, 5])
def test_models_of_short_texts_are_checked(length: int, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.test_architectures import CHARACTERS, GPT2_SIZES, character_tokenizer

    GPT2LMHeadModel(GPT2Config(**{**GPT2_SIZES, "n_positions": length})).save_pretrained(tmp_path)
    character_tokenizer(CHARACTERS).save_pretrained(tmp_path)
    assert ProbedModel.from_pretrained(tmp_path).sound == Soundness()


# -- what is kept ------------------------------------------------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of models that were checked, in a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names: list[str] = []
    check = module.soundness

    def noted(backend: Backend, name: str) -> Soundness:
        names.append(name)
        return check(backend, name)

    monkeypatch.setattr(module, "soundness", noted)
    return names


@pytest.fixture
def own(tmp_path: Path) -> Path:
    save(ARCHITECTURES["llama"], tmp_path / "own")
    return tmp_path / "own"


def test_it_runs_once_for_each_state_of_the_files(own: Path, asked: list[str], tmp_path: Path) -> None:
    for _ in range(2):
        ProbedModel.from_pretrained(own)
    assert len(asked) == 1
    ProbedModel.from_pretrained(own, dtype=torch.bfloat16)
    assert len(asked) == 2
    state = (own / "model.safetensors").stat()
    os.utime(own / "model.safetensors", ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    ProbedModel.from_pretrained(own)
    assert len(asked) == 3
    config = json.loads((own / "config.json").read_text(encoding="utf-8"))
    (own / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}), encoding="utf-8")
    ProbedModel.from_pretrained(own)
    assert len(asked) == 4
    for path in (tmp_path / "cache").rglob("*.json"):
        path.unlink()
    ProbedModel.from_pretrained(own)
    assert len(asked) == 5


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"lacking": {"mid": 3}, "adds_up": true}', "\0" * 50,
                                     '{"lacking": {"x": "y"}, "adds_up": true}', '{"lacking": {}, "adds_up": 1}'])  # fmt: skip
def test_a_damaged_entry_is_made_again(own: Path, asked: list[str], tmp_path: Path, content: str) -> None:
    ProbedModel.from_pretrained(own)
    (kept,) = (tmp_path / "cache").rglob("checked/*.json")
    whole = kept.read_text(encoding="utf-8")
    kept.write_text(content, encoding="utf-8")
    assert ProbedModel.from_pretrained(own).sound == Soundness()
    assert len(asked) == 2
    assert kept.read_text(encoding="utf-8") == whole
    kept.write_text(whole.replace('"adds_up": true', '"adds_up": false'), encoding="utf-8")  # its checksum tells
    assert ProbedModel.from_pretrained(own).sound.adds_up


def test_a_cache_that_cannot_be_written_is_no_error(own: Path, asked: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no folder", encoding="utf-8")
    for _ in range(2):
        assert ProbedModel.from_pretrained(own).sound == Soundness()
    assert len(asked) == 2


def test_what_was_found_lacking_is_lacking_from_the_cache(own: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = Soundness({"mid": "it is another's"}, False)
    monkeypatch.setattr(module, "soundness", lambda *_: found)
    ProbedModel.from_pretrained(own)
    monkeypatch.setattr(module, "soundness", lambda *_: pytest.fail("asked again"))
    model = ProbedModel.from_pretrained(own)
    assert model.sound == found
    assert "mid" not in {site.kind for site in model.sites}


def test_shipped_models_are_sound(counting: iv.Study, addition: iv.Study) -> None:
    for study in (counting, addition):
        assert study.model.sound == Soundness() == soundness(study.model.backend, "it")
