"""A probed model as something that runs: padded tokens in; activations, logits, patched runs and attention patterns out.

Masks padding, and runs texts apart that may not run together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from inversionview.core.errors import InputError, SettingError, WeightsError
from inversionview.model.backend import Backend, LogitLoss, Loss, Patch, Shape
from inversionview.model.cache import Alternatives, Extended, KeysValues
from inversionview.model.sites.kind import Tap
from inversionview.model.sites.patterns import find_site
from inversionview.model.sites.site import Site, Sites
from inversionview.model.tokens import Vocabulary


def _joined(parts: Sequence[Int[Tensor, " row"]], found: Sequence[Tensor], dim: int) -> Tensor:
    """Return what was found for parts of the rows, which lie along ``dim``, as one."""
    out = found[0].new_empty(*found[0].shape[:dim], sum(map(len, parts)), *found[0].shape[dim + 1 :])
    for rows, each in zip(parts, found, strict=True):
        out.index_copy_(dim, rows.to(out.device), each)
    return out


class Runner:
    """A backend that runs padded batches of a vocabulary's tokens.

    Attributes:
        name: where the model was loaded from.
        backend: what runs it.
        vocabulary: its tokenizer, special tokens resolved.
    """

    def __init__(self, backend: Backend, vocabulary: Vocabulary, name: str) -> None:
        self.backend, self.vocabulary, self.name = backend, vocabulary, name
        vocabulary.embedded = backend.shape.vocabulary

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

    def mask(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """Return which tokens the model sees: all but padding, and EOS where that is no token of the tokenizer."""
        seen = tokens != self.vocabulary.pad
        return seen if self.vocabulary.ended else seen & (tokens != self.vocabulary.eos)

    def _given(self, tokens: Int[Tensor, "batch pos"]) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"] | None]:
        """Return tokens as the backend takes them, and which of them are seen; ``None``: all."""
        mask = self.mask(tokens)
        return tokens.masked_fill(~mask, 0).to(self.device), None if bool(mask.all()) else mask.to(self.device)

    def candidates(self, tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
        """Return where D may be reached: all but padding and EOS (Huang et al. 2024, section 2.2). BOS may."""
        end = tokens == self.vocabulary.eos
        end[:, 0] = False
        return self.mask(tokens) & ~end

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
        if positions is None:
            positions = torch.arange(tokens.size(1)).expand(len(tokens), -1)
        if len(parts := self._apart(tokens)) > 1:
            return _joined(parts, [self.activations(tokens[rows], sites, positions[rows]) for rows in parts], 1)
        mask = self.mask(tokens)
        safe = tokens.masked_fill(~mask, 0).to(self.device)
        padded = None if bool(mask.all()) else mask.to(self.device)
        z = self.backend.activations(safe, padded, list(sites), positions.to(self.device))
        self.check_finite(z[:, mask.gather(1, positions.to(mask.device)).to(z.device)])
        return z

    def check_finite(self, z: Tensor) -> None:
        """Raise ``WeightsError`` where the precision of the weights does not reach for the activations."""
        if z.dtype in (torch.float16, torch.bfloat16) and not bool(torch.isfinite(z).all()):
            name = str(z.dtype).removeprefix("torch.")
            raise WeightsError(f"Activations of {self.name} are not finite in {name}: load it in fp32 or bf16 (--dtype).")

    @torch.no_grad()
    def logits(
        self, tokens: Int[Tensor, "batch pos"], patches: Mapping[Site, Patch] | None = None
    ) -> Float[Tensor, "batch pos vocabulary"]:
        """Return next-token logits, with the activations of some sites replaced (activation patching)."""
        if len(parts := self._apart(tokens)) > 1:
            own = [{site: patch.of(rows) for site, patch in (patches or {}).items()} for rows in parts]
            return _joined(parts, [self.logits(tokens[rows], own[i]) for i, rows in enumerate(parts)], 0)
        safe, padded = self._given(tokens)
        return self.backend.logits(safe, padded, patches)

    @torch.no_grad()
    def attention(self, tokens: Int[Tensor, "batch pos"], layer: int) -> Float[Tensor, "batch head query key"]:
        """Return the attention pattern of ``layer``."""
        if len(parts := self._apart(tokens)) > 1:
            return _joined(parts, [self.attention(tokens[rows], layer) for rows in parts], 0)
        safe, padded = self._given(tokens)
        return self.backend.attention(safe, padded, layer)

    @torch.no_grad()
    def patterns(
        self, tokens: Int[Tensor, "batch pos"], positions: Int[Tensor, "batch k"]
    ) -> Float[Tensor, "layer batch head k key"]:
        """Return the attention patterns of all layers at some query positions, from one forward pass."""
        if len(parts := self._apart(tokens)) > 1:
            return _joined(parts, [self.patterns(tokens[rows], positions[rows]) for rows in parts], 1)
        safe, padded = self._given(tokens)
        return self.backend.patterns(safe, padded, positions.to(self.device))

    @torch.no_grad()
    def attention_outputs(
        self, tokens: Int[Tensor, "batch pos"], layers: Sequence[int], positions: Int[Tensor, "batch k"]
    ) -> Float[Tensor, "layer batch k d_model"]:
        """Return what the attention of some layers gives at ``positions``: the sum of its heads and its bias."""
        if len(parts := self._apart(tokens)) > 1:
            return _joined(parts, [self.attention_outputs(tokens[rows], layers, positions[rows]) for rows in parts], 1)
        safe, padded = self._given(tokens)
        return self.backend.attention_outputs(safe, padded, layers, positions.to(self.device))

    @torch.no_grad()
    def attended(self, layer: int, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "head batch d_model"]:
        """Return what each head of ``layer`` writes if it attends to one token alone, whose residual stream is x.

        That is x under the layer's norm times the head's OV matrix.
        """
        return self.backend.attended(layer, x.to(self.device))

    def gradients(
        self, tokens: Int[Tensor, "batch pos"], taps: Sequence[Tap], loss: LogitLoss
    ) -> Float[Tensor, "tap batch pos d_model"]:
        """Return the gradient of each input's ``loss`` of its logits with respect to the values of some taps.

        These have d_model numbers. A head's output is a term of ``attn_out``, so the gradient is that of each head, too.
        """
        self._together(tokens)
        safe, padded = self._given(tokens)
        return self.backend.gradients(safe, padded, taps, loss)

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

    @torch.no_grad()
    def variants(
        self, token: int, cache: KeysValues | None, rows: int, patches: Mapping[Site, Patch]
    ) -> Float[Tensor, "row vocabulary"]:
        """Return the logits after one more token, in so many runs that differ in ``patches`` alone, which name their rows.

        That is what ``extend`` gives for copies of ``cache``, which is of one sequence; it takes less, see ``Backend``.

        Raises:
            InputError: the sequence grows longer than the model reads.
        """
        length = 1 + (0 if cache is None else cache.length)
        if length > self.shape.max_length:
            raise InputError(f"The sequence has {length} tokens, the model reads {self.shape.max_length}: shorten it.")
        self.check_steady(length)
        return self.backend.variants(torch.tensor(token, device=self.device), cache, rows, patches)

    @torch.no_grad()
    def alternatives(self, tokens: Int[Tensor, " token"], cache: KeysValues | None, site: Site) -> Alternatives:
        """Run each of some tokens by itself after the one sequence of ``cache`` (``None``: as the first); see ``Backend``.

        Raises:
            UnknownSiteError: the model has no such site.
            SettingError: ``cache`` is of several sequences.
            InputError: the sequence grows longer than the model reads.
        """
        find_site(site, self.sites)
        if cache is not None and cache.batch != 1:
            raise SettingError(f"Alternatives follow one sequence, but the cache is of {cache.batch}: take one of its rows.")
        length = 1 + (0 if cache is None else cache.length)
        if length > self.shape.max_length:
            raise InputError(f"The sequence has {length} tokens, the model reads {self.shape.max_length}: shorten it.")
        self.check_steady(length)
        return self.backend.alternatives(tokens.to(self.device), cache, site)

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
        safe, padded = self._given(tokens)
        return self.backend.pull(safe, padded, site, loss)

    def embeddings(self) -> Float[Tensor, "vocabulary d_model"]:
        """Return what the token embedding layer gives for every id.

        ``(embeddings[v] - embeddings[x_t]) @ gradient[t]`` is the first-order change of the loss when token t becomes v.
        """
        return self.backend.embeddings()
