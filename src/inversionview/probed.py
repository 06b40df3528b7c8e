"""The probed model f: tokens in; activations at any sites, logits, patched runs and attention patterns out."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.backend import Backend, Extended, KeysValues, LogitLoss, Loss, Patch, Shape
from inversionview.errors import InputError, SettingError, WeightsError
from inversionview.gpt2 import ADAPTER, GPT2Backend
from inversionview.inputs import Ids
from inversionview.sites import Site, Sites, find_site
from inversionview.soundness import Soundness, soundness_of
from inversionview.tokens import Vocabulary

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Types of weights, by the names that users give them."""


def tokens_per_pass(device: torch.device, d_model: int = 0) -> int:
    """Return how many tokens to run at once where many inputs wait: on a CPU what stays in the cache runs fastest."""
    return min(6000, 2**20 // max(d_model, 1)) if device.type == "cpu" else 240_000


def _joined(parts: Sequence[Int[Tensor, " row"]], found: Sequence[Tensor], dim: int) -> Tensor:
    """Return what was found for parts of the rows, which lie along ``dim``, as one."""
    out = found[0].new_empty(*found[0].shape[:dim], sum(map(len, parts)), *found[0].shape[dim + 1 :])
    for rows, each in zip(parts, found, strict=True):
        out.index_copy_(dim, rows.to(out.device), each)
    return out


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
    from inversionview.loading import adapted_model

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


class ProbedModel:
    """A causal language model with its activation sites laid open.

    Attributes:
        name: where it was loaded from.
        backend: what runs it.
        vocabulary: its tokenizer, special tokens resolved.
        sound: what of it may be believed.
    """

    def __init__(self, backend: Backend, vocabulary: Vocabulary, name: str) -> None:
        self.backend, self.vocabulary, self.name = backend, vocabulary, name
        vocabulary.embedded = backend.shape.vocabulary
        self.sound = Soundness()

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
        with _uncollected():
            from inversionview.bridge import BridgeBackend

            gguf = path.suffix == ".gguf"
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
        made.check()
        return made

    def check(self) -> None:
        """Hold what is read of the model against what must hold of any; kinds of sites that fail are no longer offered.

        Raises:
            WeightsError: nothing can be read of it; see ``soundness``.
        """
        self.sound = soundness_of(self.backend, self.name, files_of(self.name))
        self.backend.shape = replace(self.shape, lacking=self.sound.lacking)

    def _apart(self, tokens: Int[Tensor, "batch pos"]) -> list[Int[Tensor, " row"]]:
        """Return the rows that may run together: of texts beyond the steady length, only those of one length."""
        if self.shape.steady is None:
            return [torch.arange(len(tokens))]
        lengths = self.mask(tokens).sum(1)
        lengths = lengths.where(lengths > self.shape.steady, 0)
        return [(lengths == length).nonzero()[:, 0] for length in lengths.unique()]

    def _together(self, tokens: Int[Tensor, "batch pos"]) -> None:
        """Raise ``InputError`` where rows must run apart, for what cannot be done so."""
        if len(self._apart(tokens)) > 1:
            raise InputError(
                f"Beyond {self.shape.steady} tokens the positions of {self.name} depend on the length of the whole text: give "
                "texts of one length, or shorter ones."
            )

    @property
    def shape(self) -> Shape:
        """The model's dimensions."""
        return self.backend.shape

    @property
    def sites(self) -> Sites:
        """Every site of the model, in the order of computation."""
        return self.backend.shape.sites

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.backend.device

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

    def mask(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """Return which tokens the model sees: all but padding, and EOS where that is no token of the tokenizer."""
        seen = tokens != self.vocabulary.pad
        return seen if self.vocabulary.ended else seen & (tokens != self.vocabulary.eos)

    def candidates(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """Return where D may be reached: all but padding and EOS (Huang et al. 2024, section 2.2). BOS may."""
        end = tokens == self.vocabulary.eos
        end[:, 0] = False
        return self.mask(tokens) & ~end

    @torch.no_grad()
    def activations(
        self,
        tokens: Int[Tensor, "batch pos"],
        sites: Sequence[Site],
        positions: Int[Tensor, "batch k"] | None = None,
    ) -> Float[Tensor, "site batch k d_model"]:
        """Return the activations of all ``sites`` in one forward pass, at ``positions`` or (``None``) at all positions.

        ``tokens`` may be padded on either side with ``vocabulary.pad``; values at padding mean nothing.
        """
        mask = self.mask(tokens)
        if positions is None:
            positions = torch.arange(tokens.size(1)).expand(len(tokens), -1)
        if len(parts := self._apart(tokens)) > 1:
            return _joined(parts, [self.activations(tokens[rows], sites, positions[rows]) for rows in parts], 1)
        safe = tokens.masked_fill(~mask, 0).to(self.device)
        padded = None if bool(mask.all()) else mask.to(self.device)
        z = self.backend.activations(safe, padded, list(sites), positions.to(self.device))
        self._check_finite(z[:, mask.gather(1, positions.to(mask.device)).to(z.device)])
        return z

    def _check_finite(self, z: Tensor) -> None:
        """Raise ``WeightsError`` where the precision of the weights does not reach for the activations."""
        if z.dtype in (torch.float16, torch.bfloat16) and not bool(torch.isfinite(z).all()):
            name = str(z.dtype).removeprefix("torch.")
            raise WeightsError(f"Activations of {self.name} are not finite in {name}: load it in fp32 or bf16 (--dtype).")

    @torch.no_grad()
    def harvest(
        self,
        tokens: Ids,
        sites: Sequence[Site],
        positions: npt.NDArray[np.int64],
        pick: npt.NDArray[np.int64] | None = None,
    ) -> Tensor:
        """Return activations of many inputs, on the CPU in float32, in passes of inputs of like length.

        Nothing behind the last asked position is computed: a causal model does not look there.

        Args:
            tokens: padded on the right, ``[rows, pos]``.
            sites: the sites to read.
            positions: ``[rows, k]``.
            pick: which site (index into ``sites``) is wanted at each position, ``[rows, k]``; without it, all are.

        Returns:
            ``[site, rows, k, d_model]``, or ``[rows, k, d_model]`` with ``pick``.
        """
        n, k = positions.shape
        width = self.shape.d_model
        out = torch.empty((n, k, width) if pick is not None else (len(sites), n, k, width))
        for rows, cut, at in self._passes(tokens, positions, len(sites) * width):
            z = self.backend.activations(cut, None, sites, at)
            self._check_finite(z)
            if pick is None:
                out[:, rows] = z.float().cpu()
            else:
                i = torch.arange(len(rows))[:, None]
                out[rows] = z[torch.from_numpy(pick[rows]), i, torch.arange(k)[None]].float().cpu()
        return out

    @torch.no_grad()
    def harvest_compact(
        self, tokens: Ids, sites: Sequence[Site], positions: npt.NDArray[np.int64]
    ) -> list[Float[Tensor, "rows k width"]]:
        """Return what ``harvest`` does, heads in the coordinates of their ``frame``: as near and as long, in far fewer numbers.

        Args:
            tokens: padded on the right, ``[rows, pos]``.
            sites: the sites to read.
            positions: ``[rows, k]``.

        Returns:
            for each site ``[rows, k, width(site)]`` in float32, on the CPU.
        """
        widths = [self.width(site) for site in sites]
        out = [torch.empty(*positions.shape, width) for width in widths]
        narrow = [site for site, width in zip(sites, widths, strict=True) if width < self.shape.d_model]
        maps = {site: self._frames[site.layer][0][site.head] for site in narrow}
        for rows, cut, at in self._passes(tokens, positions, sum(widths)):
            made = [self.backend.w_o(0).new_empty(*at.shape, width) for width in widths]
            self.backend.read_into(made, cut, None, sites, at, maps)
            for all_rows, part in zip(out, made, strict=True):
                self._check_finite(part)
                all_rows[rows] = part.float().cpu()
        return out

    def _passes(
        self, tokens: Ids, positions: npt.NDArray[np.int64], numbers: int
    ) -> Iterator[tuple[Ids, Int[Tensor, "row pos"], Int[Tensor, "row k"]]]:
        """Yield rows to run together, of like length, with their tokens and positions; a pass keeps ``numbers`` × k a row.

        They are cut behind the last position that is asked for, unless activations depend on the length of the whole text.
        """
        needed, steady = positions.max(1) + 1, self.shape.steady or tokens.shape[1]
        lengths = (tokens != self.vocabulary.pad).sum(1)
        needed = np.where(lengths > steady, lengths, needed)
        order, longest = np.argsort(needed, kind="stable"), int(needed.max())
        budget = min(
            tokens_per_pass(self.device, self.shape.d_model), 2**26 // (numbers * positions.shape[1]) * longest + longest
        )
        start = 0
        while start < len(order):
            rows = order[start : start + max(1, budget // int(needed[order[start]]))]
            first = needed[rows[0]]
            rows = rows[needed[rows] <= (steady if first <= steady else first)]
            cut = torch.from_numpy(tokens[rows, : needed[rows].max()])
            at = torch.from_numpy(positions[rows]).to(self.device)
            yield rows, cut.masked_fill(~self.mask(cut), 0).to(self.device), at
            start += len(rows)

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
        return site.width(self.shape.d_model, self.backend.w_o(site.layer).size(1))

    def frame(self, site: Site) -> Float[Tensor, "width d_model"] | None:
        """Return orthonormal vectors that span a head's outputs, in float32; ``None`` where its width is d_model."""
        if self.width(site) == self.shape.d_model:
            return None
        return self._frames[site.layer][1][site.head or 0].float().cpu()

    @torch.no_grad()
    def logits(
        self, tokens: Int[Tensor, "batch pos"], patches: Mapping[Site, Patch] | None = None
    ) -> Float[Tensor, "batch pos vocabulary"]:
        """Return next-token logits, with the activations of some sites replaced (activation patching)."""
        if len(parts := self._apart(tokens)) > 1:
            own = [{site: patch.of(rows) for site, patch in (patches or {}).items()} for rows in parts]
            return _joined(parts, [self.logits(tokens[rows], own[i]) for i, rows in enumerate(parts)], 0)
        mask = self.mask(tokens)
        safe = tokens.masked_fill(~mask, 0).to(self.device)
        return self.backend.logits(safe, None if bool(mask.all()) else mask.to(self.device), patches)

    @torch.no_grad()
    def attention(self, tokens: Int[Tensor, "batch pos"], layer: int) -> Float[Tensor, "batch head query key"]:
        """Return the attention pattern of ``layer``."""
        if len(parts := self._apart(tokens)) > 1:
            return _joined(parts, [self.attention(tokens[rows], layer) for rows in parts], 0)
        mask = self.mask(tokens)
        safe = tokens.masked_fill(~mask, 0).to(self.device)
        return self.backend.attention(safe, None if bool(mask.all()) else mask.to(self.device), layer)

    @torch.no_grad()
    def patterns(
        self, tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "batch k"]
    ) -> Float[Tensor, "layer batch head k key"]:
        """Return the attention patterns of all layers at some query positions, from one forward pass."""
        if len(parts := self._apart(tokens)) > 1:
            return _joined(parts, [self.patterns(tokens[rows], positions[rows]) for rows in parts], 1)
        mask = self.mask(tokens)
        safe = tokens.masked_fill(~mask, 0).to(self.device)
        padded = None if bool(mask.all()) else mask.to(self.device)
        return self.backend.patterns(safe, padded, positions.to(self.device))

    @torch.no_grad()
    def attention_outputs(
        self, tokens: Int[Tensor, "batch pos"], layers: Sequence[int], positions: Int[Tensor, "batch k"]
    ) -> Float[Tensor, "layer batch k d_model"]:
        """Return what the attention of some layers gives at ``positions``: the sum of its heads and its bias."""
        if len(parts := self._apart(tokens)) > 1:
            return _joined(parts, [self.attention_outputs(tokens[rows], layers, positions[rows]) for rows in parts], 1)
        mask = self.mask(tokens)
        safe = tokens.masked_fill(~mask, 0).to(self.device)
        padded = None if bool(mask.all()) else mask.to(self.device)
        return self.backend.attention_outputs(safe, padded, layers, positions.to(self.device))

    @torch.no_grad()
    def attended(self, layer: int, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "head batch d_model"]:
        """Return what each head of ``layer`` writes if it attends to one token alone, whose residual stream is x.

        That is x under the layer's norm times the head's OV matrix.
        """
        return self.backend.attended(layer, x.to(self.device))

    def attention_gradients(
        self, tokens: Int[Tensor, "batch pos"], loss: LogitLoss
    ) -> Float[Tensor, "layer batch pos d_model"]:
        """Return the gradient of each input's ``loss`` of its logits with respect to what each attention layer gives.

        A head's output is a term of that, so it is the gradient with respect to each head's output, too.
        """
        self._together(tokens)
        mask = self.mask(tokens)
        safe = tokens.masked_fill(~mask, 0).to(self.device)
        return self.backend.attention_gradients(safe, None if bool(mask.all()) else mask.to(self.device), loss)

    @torch.no_grad()
    def extend(
        self,
        tokens: Int[Tensor, "batch new"],
        cache: KeysValues | None = None,
        site: Site | None = None,
        *,
        logits: bool = True,
        patches: Mapping[Site, Patch] | None = None,
    ) -> Extended:
        """Run ``tokens`` after those that ``cache`` holds: activations of ``site``, logits, and the cache of both.

        For chains that edit the end of sequences. There is no padding on the left; on the right any ids may stand. Without
        ``logits`` the run stops after the layer of ``site``, and the cache it gives has the layers up to there. ``patches``
        replace activations of the new tokens, at positions counted from the first of all (with logits, without ``site``).

        Raises:
            UnknownSiteError: the model has no such site.
            SettingError: ``cache`` has another batch size, or fewer layers than are run; patches come with ``site``.
            InputError: the sequences grow longer than the model reads.
        """
        if site is not None:
            find_site(site, self.sites)
        if patches and (site is not None or not logits):
            raise SettingError("A patched run gives logits alone: ask for no site.")
        if cache is not None and cache.batch != len(tokens):
            raise SettingError(f"The cache is of {cache.batch} sequences, but {len(tokens)} go on: take its rows.")
        length = tokens.size(1) + (0 if cache is None else cache.length)
        if length > self.shape.max_length:
            raise InputError(f"The sequences have {length} tokens, the model reads {self.shape.max_length}: shorten them.")
        self.check_steady(length)
        safe = tokens.masked_fill(~self.mask(tokens), 0).to(self.device)
        return self.backend.extend(safe, cache, site, logits=logits, patches=patches)

    def check_steady(self, length: int) -> None:
        """Raise ``InputError`` unless a text of so many tokens can be gone on with, as walks do."""
        if self.shape.steady is not None and length > self.shape.steady:
            raise InputError(
                f"Beyond {self.shape.steady} tokens the positions of {self.name} depend on the length of the whole text, so a "
                f"text of {length} cannot be gone on with: shorten it, or read it without a walk."
            )

    def pull(
        self, tokens: Int[Tensor, "batch pos"], site: Site, loss: Loss
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch pos d_model"]]:
        """Return each input's ``loss`` of the site's activations, and its gradient with respect to the token embeddings.

        Args:
            tokens: padded on either side with ``vocabulary.pad``.
            site: nothing behind it is computed.
            loss: from the site's activations at all positions, ``[batch, pos, d_model]``, to a number for each input.

        Returns:
            The losses, and d loss / d embedding, ``[batch, pos, d_model]``; see ``embeddings`` for what it is good for.

        Raises:
            UnknownSiteError: the model has no such site.
        """
        find_site(site, self.sites)
        self._together(tokens)
        mask = self.mask(tokens)
        safe = tokens.masked_fill(~mask, 0).to(self.device)
        return self.backend.pull(safe, None if bool(mask.all()) else mask.to(self.device), site, loss)

    def embeddings(self) -> Float[Tensor, "vocabulary d_model"]:
        """Return what the token embedding layer gives for every id.

        ``(embeddings[v] - embeddings[x_t]) @ gradient[t]`` is the first-order change of the loss when token t becomes v.
        """
        return self.backend.embeddings()
