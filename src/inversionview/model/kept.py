"""Copies of models that take long to unpack, in the user's cache: a GGUF file's weights as numbers, and its tokenizer.

A quantised Llama of 135 M weights takes seconds to be unpacked, and what runs it seconds to be imported. Once it was loaded,
its copy is read by ``llama.py`` in a fraction of that. A copy lies under the checksum of its file, so another file never has
it; it is kept only where it gives back the same weights, the same tokens and, within rounding, the same activations, and is
checked when it is opened. What else is asked of the model, the bridge does, as ever: it is opened from the file itself.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

import inversionview
from inversionview.core.errors import StorageError, WeightsError
from inversionview.core.integrity import digest, file_digest, read_sealed, sealed
from inversionview.core.storage import replacing, write_json
from inversionview.model.backend import Backend, Shape
from inversionview.model.chat_template import ChatTemplate
from inversionview.model.framing import bos_stated
from inversionview.model.llama import LlamaNetwork
from inversionview.model.tokens import Vocabulary, fingerprint

if TYPE_CHECKING:
    from inversionview.model.bridge import BridgeBackend

_FORMAT = 2
_LARGEST, _TOTAL = 2**31, 2**32
"""Bytes of one copy, and of all together: older ones go."""
_SPARE = 4
"""A copy is written where so many times its size is free."""
_FREQUENCIES = "rotary.frequencies"
_FILES = ("weights.safetensors", "tokenizer.json")
_TRIED = 24
"""Tokens of the texts on which a copy is held against its model."""


@dataclass(frozen=True)
class KeptModel:
    """A model as it is read from its copy."""

    backend: Backend
    vocabulary: Vocabulary
    fingerprint: str
    """See ``ProbedModel.fingerprint``."""


class KeptBackend(LlamaNetwork):
    """Runs by itself; whatever else a ``Backend`` can do, the bridge does, which is opened when it is first asked."""

    def __init__(self, *parts: Any, bridge: Callable[[], BridgeBackend]) -> None:
        super().__init__(*parts)
        self._open, self._opened, self._lock = bridge, list["BridgeBackend"](), threading.Lock()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        with self._lock:
            if not self._opened:
                self._opened.append(self._open())
        return getattr(self._opened[0], name)


class Copy:
    """The copy of one GGUF file, there or not.

    Attributes:
        file: whose.
        folder: where it lies.
    """

    def __init__(self, file: Path) -> None:
        self.file, self._digest = file, file_digest(file)
        told = [_FORMAT, self._digest, inversionview.__version__, *map(version, ("transformers", "gguf", "tokenizers"))]
        self.folder = _cache() / digest(json.dumps(told).encode())

    @classmethod
    def of(cls, file: Path) -> Copy | None:
        """Return the copy of a file; ``None`` where there cannot be one."""
        try:
            return cls(file) if file.suffix == ".gguf" and file.stat().st_size <= _LARGEST else None
        except (OSError, ImportError):
            return None

    def read(self) -> KeptModel | None:
        """Return the model of the copy; ``None`` where there is none, or it is damaged."""
        try:
            told = read_sealed(self.folder / "model.json")
            if any(file_digest(self.folder / name) != told["files"][name] for name in _FILES):
                return None
            kept = self._made(self.folder, told, self._bridge)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError):
            return None
        with suppress(OSError):
            os.utime(self.folder)  # used now
        return kept

    def keep(self, bridge: BridgeBackend, tokenizer: Any, stated: str) -> KeptModel | None:
        """Write the copy of a model that was loaded, and return what reads it; ``None`` where that is not the same.

        Args:
            bridge: the model.
            tokenizer: as transformers gives it.
            stated: its fingerprint.
        """
        size = sum(weight.numel() * weight.element_size() for _, weight in bridge.weights())
        rotary = _rotary(bridge)
        if rotary is None or size > _LARGEST or not _room(size):
            return None
        try:
            with replacing(self.folder) as temporary:
                temporary.mkdir()
                weights = {name: weight.contiguous() for name, weight in bridge.weights()}
                save_file({**weights, _FREQUENCIES: rotary.inv_freq.float().contiguous()}, temporary / _FILES[0])
                (temporary / _FILES[1]).write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
                told = {**_told(bridge, tokenizer, rotary, stated), "files": {n: file_digest(temporary / n) for n in _FILES}}
                write_json(temporary / "model.json", sealed(told))
                self._check(temporary, told, bridge, tokenizer)
            return self._made(self.folder, told, lambda: bridge)
        except (StorageError, _OtherError, SafetensorError, OSError):
            return None

    def _check(self, folder: Path, told: dict[str, Any], bridge: BridgeBackend, tokenizer: Any) -> None:
        """Raise unless a copy is the model that it is of."""
        kept = self._made(folder, told, lambda: bridge)
        weights = dict(kept.backend.weights())
        same = all(torch.equal(weights.pop(name), weight) for name, weight in bridge.weights()) and not weights
        if not same or fingerprint(kept.vocabulary) != fingerprint(Vocabulary.from_transformers(tokenizer)):
            raise _OtherError
        length = min(_TRIED, bridge.shape.max_length)
        tokens = (torch.arange(2 * length) * 7919 + 1).remainder(bridge.shape.vocabulary).view(2, length)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        mask[1, : length // 3] = False
        places = torch.arange(length).expand(2, -1)
        for seen in (None, mask):
            with torch.no_grad():
                ours, theirs = (each.activations(tokens, seen, bridge.shape.sites, places) for each in (kept.backend, bridge))
            if seen is not None:
                ours, theirs = ours[:, seen], theirs[:, seen]
            with torch.no_grad():
                said = [
                    each.logits(tokens, seen)[torch.ones_like(mask) if seen is None else seen]
                    for each in (kept.backend, bridge)
                ]
            pairs = [*zip(ours, theirs, strict=True), (said[0], said[1])]
            if not all(float((a - b).norm()) <= 1e-4 * float(b.norm()) for a, b in pairs):
                raise _OtherError

    def _bridge(self) -> BridgeBackend:
        from inversionview.model.bridge import BridgeBackend

        if file_digest(self.file) != self._digest:
            raise WeightsError(f"{self.file} has changed since it was loaded: load it again.")
        return BridgeBackend.from_pretrained(str(self.file))[0]

    @staticmethod
    def _made(folder: Path, told: dict[str, Any], bridge: Callable[[], BridgeBackend]) -> KeptModel:
        tensors: dict[str, Tensor] = load_file(folder / _FILES[0])
        frequencies = tensors.pop(_FREQUENCIES)
        named = told["tokens"]
        tokenizer = Tokenizer.from_str((folder / _FILES[1]).read_text(encoding="utf-8"))
        tokenizer.encode_special_tokens = named["encoded"]
        names = (named[each] for each in ("bos", "eos", "pad", "unk"))
        vocabulary = Vocabulary(tokenizer, *names, adds_bos=named["adds_bos"])
        vocabulary.chat = None if told["chat"] is None else ChatTemplate(**told["chat"])
        shape = Shape(tuple(told["heads"]), told["d_model"], told["vocabulary"], told["max_length"])
        backend = KeptBackend(shape, tensors, frequencies, told["scaling"], told["eps"], bridge=bridge)
        return KeptModel(cast(Backend, backend), vocabulary, told["fingerprint"])


class _OtherError(Exception):
    """A copy is not the model that it is of."""


def _cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("inversionview") / "models"


def _room(size: int) -> bool:
    """Return whether a copy of so many bytes may be written; of those that lie there, the longest unused make room."""
    cache = _cache()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(cache).free < _SPARE * size:
            return False
        there = sorted((path.stat().st_mtime, path) for path in cache.iterdir() if not path.name.startswith("."))
        sizes = {path: sum(file.stat().st_size for file in path.iterdir()) for _, path in there}
        for _, path in there:
            if sum(sizes.values()) + size <= _TOTAL:
                break
            shutil.rmtree(path)
            del sizes[path]
    except OSError:
        return False
    return True


def _rotary(bridge: BridgeBackend) -> Any | None:
    """Return what rotates queries and keys, where the model is a Llama such as ``LlamaNetwork`` runs."""
    model, shape = bridge.bridge.original_model, bridge.shape
    config = model.config
    plain = config.hidden_act == "silu" and not config.attention_bias and not config.mlp_bias if _is_llama(model) else False
    if not plain or shape.parallel or shape.steady is not None:
        return None
    return next((each for each in model.modules() if type(each).__name__ == "LlamaRotaryEmbedding"), None)


def _is_llama(model: Any) -> bool:
    return type(model).__name__ == "LlamaForCausalLM"


def _told(bridge: BridgeBackend, tokenizer: Any, rotary: Any, stated: str) -> dict[str, Any]:
    """Return what a copy says of its model beside its weights."""
    shape, config = bridge.shape, bridge.bridge.original_model.config
    names = {each: getattr(tokenizer, f"{each}_token") for each in ("bos", "eos", "pad", "unk")}
    tokens = {**names, "adds_bos": bos_stated(tokenizer), "encoded": tokenizer.backend_tokenizer.encode_special_tokens}
    sizes = {"heads": shape.heads, "d_model": shape.d_model, "vocabulary": shape.vocabulary, "max_length": shape.max_length}
    return {
        **sizes,
        "eps": config.rms_norm_eps,
        "scaling": float(rotary.attention_scaling),
        "fingerprint": stated,
        "tokens": tokens,
        "chat": None if (chat := ChatTemplate.of(tokenizer)) is None else asdict(chat),
    }
