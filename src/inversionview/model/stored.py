"""The weights of a model as numbers, by the names of transformers: what a fingerprint is taken of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

_BRIDGED = "._original_component"
"""What a ``TransformerBridge`` puts into the names of a model."""


def weights_of(model: Any) -> list[tuple[str, Tensor]]:
    """Return a model's weights by name, sorted; tied ones once.

    Of a model with packed (quantised) weights that is what its ``state_dict`` holds: the packed numbers and their scales. Of
    one with adapters of PEFT also by how much each that is active is scaled.
    """
    named = [(name.replace(_BRIDGED, ""), weight) for name, weight in model.named_parameters()]
    if not all(type(weight) is nn.Parameter and weight.is_floating_point() for _, weight in named):
        named = [each for name, value in model.state_dict().items() for each in _flat(name.replace(_BRIDGED, ""), value)]
    return sorted([*named, *_scales(model)], key=lambda item: item[0])


def _flat(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the plain tensors of an entry of a ``state_dict``."""
    if hasattr(value, "__tensor_flatten__"):
        for part in value.__tensor_flatten__()[0]:
            yield from _flat(f"{name}.{part}", getattr(value, part))
    elif isinstance(value, Tensor):
        yield name, value.detach()


def _scales(model: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield the scale of every adapter that takes part in a pass."""
    for name, module in model.named_modules():
        if hasattr(module, "merged_adapters") and not module.disable_adapters:
            for adapter in module.active_adapters:
                if adapter in getattr(module, "scaling", {}) and adapter not in module.merged_adapters:
                    yield f"{name.replace(_BRIDGED, '')}.scaling.{adapter}", torch.tensor(float(module.scaling[adapter]))
