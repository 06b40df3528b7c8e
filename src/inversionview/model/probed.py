"""The probed model f: tokens in; activations at any sites, logits, patched runs and attention patterns out."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from torch import Tensor

from inversionview.core.arrays import Ids
from inversionview.core.errors import InputError, MismatchError, WeightsError
from inversionview.core.scope import Distance
from inversionview.model.backend import Backend
from inversionview.model.distances.metric import Metric
from inversionview.model.distances.registry import metric_at
from inversionview.model.distances.statistics import Statistics
from inversionview.model.gpt2 import GPT2Backend
from inversionview.model.gpt2_files import ADAPTER
from inversionview.model.harvest import harvest, harvest_compact
from inversionview.model.kept import Copy, KeptModel
from inversionview.model.runner import Runner
from inversionview.model.sites.site import Site
from inversionview.model.soundness import Soundness, soundness_of
from inversionview.model.tokens import Vocabulary

if TYPE_CHECKING:
    from inversionview.model.held.version import Version

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Types of weights, by the names that users give them."""


def _vocabulary_of(folder: Path, instead: Vocabulary | None, trust_remote_code: bool) -> Vocabulary:
    """Return the tokenizer of a Hugging Face directory, or the one to take where it has none."""
    if instead is not None and not any(folder.glob("*tokenizer*")) and not (folder / "vocab.json").exists():
        return instead
    return Vocabulary.from_folder(folder, trust_remote_code)


def files_of(name: str) -> list[Path]:
    """Return the files of a model on disk, those of the one that an adapter is for as well; none of a model of the hub."""
    path = Path(name).expanduser()
    if path.is_file():
        return [path]
    if not path.is_dir():
        return []
    own = [each for each in path.iterdir() if each.is_file()]
    if not (path / ADAPTER).is_file():
        return own
    from inversionview.model.loading import adapted_model

    base = files_of(adapted_model(path) or "")
    return own + base if base else []


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector off the millions of objects that imports and loading make, nearly all of which stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check_finite(backend: Backend, name: str | Path) -> None:
    """Raise ``WeightsError`` if a weight is NaN or infinite."""
    for weight_name, weight in backend.weights():
        ends = torch.aminmax(weight if weight.element_size() > 1 else weight.float())
        if not bool(torch.stack(list(ends)).isfinite().all()):
            raise WeightsError(
                f"The weights of {name} are damaged ({weight_name} holds NaN or infinity): copy or download them again."
            )


class ProbedModel(Runner):
    """A causal language model with its activation sites laid open.

    Attributes:
        name: where it was loaded from.
        backend: what runs it.
        vocabulary: its tokenizer, special tokens resolved.
        sound: what of it may be believed.
        statistics: of a corpus, which some distances need; see ``learn``.
        version: of one that was in memory already (``wrap``): the state in which it was laid open.
        studies: what verbs that were given it in place of a study have made of it, by the texts.
    """

    def __init__(self, backend: Backend, vocabulary: Vocabulary, name: str) -> None:
        super().__init__(backend, vocabulary, name)
        self.sound = Soundness()
        self.statistics: Statistics | None = None
        self.version: Version | None = None
        self.studies: dict[str, Any] = {}
        self._metrics: dict[tuple[Distance, Site], Metric] = {}

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        trust_remote_code: bool = False,
        vocabulary: Vocabulary | None = None,
    ) -> ProbedModel:
        """Load any causal LM: a Hugging Face directory, one of a LoRA adapter, a hub name, or a GGUF file.

        Args:
            name_or_path: what to load.
            device: where the model shall run.
            dtype: the weights' type.
            trust_remote_code: run Python code that comes with the model.
            vocabulary: its tokenizer, where none lies beside the weights.

        Raises:
            WeightsError: there is no such model, its files are truncated, foreign, or would run code; or what is read of it
                would be wrong, see ``soundness``.
        """
        path = Path(name_or_path).expanduser()
        if path.is_dir() and GPT2Backend.reads(path):
            plain = GPT2Backend.from_folder(path, device, dtype)
            _check_finite(plain, name_or_path)
            read = cls(plain, _vocabulary_of(path, vocabulary, trust_remote_code), str(name_or_path))
            read.check()
            return read
        gguf = path.suffix == ".gguf"
        copy = Copy.of(path) if device == "cpu" and dtype == torch.float32 and vocabulary is None else None
        kept = None if copy is None else copy.read()
        if kept is not None:
            return cls._of_copy(kept, str(name_or_path))
        with _uncollected():
            from inversionview.model.bridge import BridgeBackend

            backend, tokenizer = BridgeBackend.from_pretrained(
                str(path.parent if gguf else name_or_path),
                device=device,
                dtype=dtype,
                gguf_file=path.name if gguf else None,
                trust_remote_code=trust_remote_code,
                tokenizer_lies_elsewhere=vocabulary is not None,
            )
        if tokenizer is not None:
            vocabulary = Vocabulary.from_transformers(tokenizer)
        assert vocabulary is not None
        _check_finite(backend, name_or_path)
        made = cls(backend, vocabulary, str(name_or_path))
        if copy is not None and (kept := copy.keep(backend, tokenizer, made.fingerprint)) is not None:
            return cls._of_copy(kept, str(name_or_path))  # the same numbers as whenever it is loaded again
        made.check()
        return made

    @classmethod
    def _of_copy(cls, kept: KeptModel, name: str) -> ProbedModel:
        made = cls(kept.backend, kept.vocabulary, name)
        made.fingerprint = kept.fingerprint
        made.check()
        return made

    @classmethod
    def wrap(cls, model: Any, tokenizer: Any = None) -> ProbedModel:
        """Lay open a model that is in memory already: its weights are shared, the object stays as it is and can be used on.

        What is read is the model as it is now, adapters and hooks that hang on it included; it has the ``fingerprint`` of its
        weights at this moment. Where it was changed since, queries and banks are refused; see ``check_unchanged``.

        Args:
            model: a causal LM of transformers (fine-tuned, quantised, with adapters of PEFT merged or not), TransformerLens'
                ``TransformerBridge``, or an nnsight ``LanguageModel``.
            tokenizer: its tokenizer; by default that of the bridge or of nnsight, or of the folder that it was loaded from.

        Raises:
            WeightsError: it is no causal LM, has no weights or no tokenizer, or one of another vocabulary; its architecture
                cannot be laid open, or what is read of it would be wrong.
        """
        from inversionview.model.held.opened import backend_of
        from inversionview.model.held.taken import taken
        from inversionview.model.held.version import Version

        inner, vocabulary, name = taken(model, tokenizer)
        with _uncollected():
            backend = backend_of(inner, name)
        _check_finite(backend, name)
        made = cls(backend, vocabulary, name)
        made.version = Version(inner)
        made.check([])
        return made

    @property
    def in_memory(self) -> bool:
        """Whether it was in memory already: then ``name`` is no place where it lies."""
        return self.version is not None

    @property
    def changed(self) -> bool:
        """Whether a model in memory was changed since it was laid open, as far as can be told without reading its weights."""
        return self.version is not None and self.version.changed

    def check_unchanged(self) -> None:
        """Raise ``MismatchError`` where a model in memory was changed since it was laid open: what was kept of it is stale."""
        if self.changed:
            raise MismatchError(
                f"The weights of {self.name} were changed since it was wrapped: wrap it again (iv.ProbedModel.wrap), and make "
                "queries anew."
            )

    def check(self, files: Iterable[Path] | None = None) -> None:
        """Hold what is read of the model against what must hold of any; kinds of sites that fail are no longer offered.

        Args:
            files: of the model, under which is kept what was found; by default those that lie at its name.

        Raises:
            WeightsError: nothing can be read of it; see ``soundness``.
        """
        self.sound = soundness_of(self.backend, self.name, files_of(self.name) if files is None else files)
        self.backend.shape = replace(self.shape, lacking={**self.shape.lacking, **self.sound.lacking})

    @cached_property
    def tokenizer(self) -> Any:
        """The model's ``PreTrainedTokenizerFast``."""
        from transformers import PreTrainedTokenizerFast

        v = self.vocabulary
        names = {"bos_token": v.bos, "eos_token": v.eos, "pad_token": v.pad if v.pad < v.size else v.eos}
        tokens = {name: None if number is None else v.tokenizer.id_to_token(number) for name, number in names.items()}
        return PreTrainedTokenizerFast(tokenizer_object=v.tokenizer, **tokens)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all weights (name, shape, values as float32), 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for name, weight in self.backend.weights():
            digest.update(f"{name}{tuple(weight.shape)}".encode())
            digest.update(weight.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text`` in its frame; see ``Vocabulary``.

        Raises:
            InputError: the text is empty, cannot be encoded, or is longer than the model reads.
        """
        ids = self.vocabulary.encode(text)
        if len(ids) > self.shape.max_length:
            frame = "BOS and EOS" if self.vocabulary.front else "EOS"
            raise InputError(
                f"The text has {len(ids)} tokens with {frame}, the model reads {self.shape.max_length}: shorten it."
            )
        return ids

    def harvest(
        self,
        tokens: Ids,
        sites: Sequence[Site],
        positions: npt.NDArray[np.int64],
        pick: npt.NDArray[np.int64] | None = None,
    ) -> Tensor:
        """Return activations of many inputs, on the CPU in float32; see ``harvest.harvest``."""
        return harvest(self, tokens, sites, positions, pick)

    def harvest_compact(
        self, tokens: Ids, sites: Sequence[Site], positions: npt.NDArray[np.int64]
    ) -> list[Float[Tensor, "rows k width"]]:
        """Return what ``harvest`` does, for each site ``[rows, k, width(site)]``.

        Heads are in the coordinates of their ``frame``: as near and as long, in far fewer numbers.
        """
        maps = {site: self._frames[site.layer][0][site.head] for site in sites if self._framed(site)}
        return harvest_compact(self, tokens, sites, positions, maps)

    @cached_property
    def _frames(self) -> list[tuple[Float[Tensor, "head d_head d_head"], Float[Tensor, "head d_head d_model"]]]:
        """Each layer's W_O = C F with orthonormal rows F: C takes a head's slice to its coordinates, F those to its output."""
        found = []
        for layer in range(len(self.shape.heads)):
            w_o = self.backend.w_o(layer).detach()
            q, r = torch.linalg.qr(w_o.double().mT)  # W_Oᵀ = q r
            found.append((r.mT.to(w_o), q.mT.to(w_o)))
        return found

    def width(self, site: Site) -> int:
        """Return how many numbers hold an activation of ``site``: a head's output lies in a space of d_head dimensions."""
        return site.width(self.shape.widths)

    def own(self, z: Float[Tensor, "*batch widest"], site: Site) -> Float[Tensor, "*batch numbers"]:
        """Return a site's activations without the zeros that follow them where they came together with longer ones."""
        return z[..., : site.numbers(self.shape.widths)]

    def _framed(self, site: Site) -> bool:
        """Return whether activations of a site are kept in fewer numbers than they are read in."""
        return self.width(site) < site.numbers(self.shape.widths)

    def frame(self, site: Site) -> Float[Tensor, "width d_model"] | None:
        """Return orthonormal vectors that span a head's outputs, in float32; ``None`` where they are kept as they are."""
        return self._frames[site.layer][1][site.head or 0].float().cpu() if self._framed(site) else None

    def metric(self, distance: Distance, site: Site) -> Metric:
        """Return a distance at a site; it is formed once.

        Raises:
            SettingError: there is none of that name, or it needs statistics that were not learned.
        """
        found = self._metrics.get((distance, site))
        if found is None:
            plain = distance in ("euclidean", "cosine")  # blind to coordinates
            frame = None if plain else self.frame(site)
            found = self._metrics[distance, site] = metric_at(self.backend, site, distance, frame, self.statistics)
        return found

    def learn(self, statistics: Statistics) -> None:
        """Take statistics of a corpus over; those of another one are forgotten.

        Raises:
            MismatchError: they are of another model.
        """
        if statistics.model != self.fingerprint:
            raise MismatchError(
                f"The statistics of {statistics.corpus} are of another model than {self.name}: measure them anew."
            )
        if self.statistics is not None and self.statistics.fingerprint == statistics.fingerprint:
            statistics = self.statistics.joined(statistics)
        self.statistics = statistics
        self._metrics.clear()
