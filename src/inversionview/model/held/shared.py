"""A second tree of modules over the same weights.

A bridge puts its own modules in place of a model's, and takes another implementation of attention: done to this tree, that
leaves the user's object as it was, its ``state_dict``, its names, its hooks, its mode and all.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from inversionview.core.errors import WeightsError


def shared(model: nn.Module) -> Any:
    """Return a copy of a model's modules and settings whose tensors are the model's own.

    Raises:
        WeightsError: something that hangs on the model cannot be copied.
    """
    memo: dict[int, Any] = {id(tensor): tensor for module in model.modules() for tensor in _tensors(vars(module), 2)}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:  # whatever an object of the user's raises that refuses to be copied
        raise WeightsError(
            f"{type(model).__name__} cannot be laid open beside itself ({error}): take off what was hung on it, such as hooks."
        ) from error


def _tensors(values: dict[str, Any], depth: int) -> Iterator[Tensor]:
    """Yield the tensors of a module's attributes, and of what these hold, as the states of quantised layers do."""
    for value in values.values():
        if isinstance(value, Tensor):
            yield value
            if depth and getattr(value, "__dict__", None):  # packed weights carry their scales
                yield from _tensors(vars(value), depth - 1)
        elif isinstance(value, dict) and depth:
            yield from _tensors(value, depth)
        elif depth and not isinstance(value, nn.Module | type) and hasattr(value, "__dict__"):
            yield from _tensors(vars(value), depth - 1)


def merge_adapters(model: nn.Module) -> None:
    """Put the adapters of a shared tree into weights of its own, in place; those that have none stay shared.

    For matrices that a bridge takes apart: it would look for the adapter in vain.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in list(model.modules()):
        for name, layer in list(module.named_children()):
            if isinstance(layer, BaseTunerLayer):
                base = layer.get_base_layer()
                for each, weight in list(base.named_parameters(recurse=False)):
                    setattr(base, each, nn.Parameter(weight.detach().clone(), requires_grad=False))
                with torch.no_grad():
                    layer.merge(safe_merge=True)
                setattr(module, name, layer.get_base_layer())
