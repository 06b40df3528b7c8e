"""InversionView: read what a neural activation encodes.

    import inversionview as iv

    study = iv.load("addition")
    query = study.query("615+861=1476", at="=", site="a0.0")
    study.preimage(query, epsilon=0.1)

This list is the public surface; a name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "ActivationBank": "bank.store",
    "Decoder": "decoder.decoder",
    "DecoderConfig": "decoder.config",
    "Inputs": "inputs",
    "InversionViewError": "errors",
    "Patch": "backend",
    "Preimage": "preimage.core",
    "ProbedModel": "probed",
    "Query": "preimage.core",
    "Sample": "preimage.core",
    "Setting": "preimage.sampled",
    "Site": "sites",
    "Study": "study",
    "TextInputs": "texts",
    "TrainConfig": "decoder.training",
    "load": "study",
    "show": "explorer.widget",
    "train": "decoder.training",
}
__all__ = [
    "ActivationBank",
    "Decoder",
    "DecoderConfig",
    "Inputs",
    "InversionViewError",
    "Patch",
    "Preimage",
    "ProbedModel",
    "Query",
    "Sample",
    "Setting",
    "Site",
    "Study",
    "TextInputs",
    "TrainConfig",
    "__version__",
    "load",
    "show",
    "train",
]

if TYPE_CHECKING:
    from inversionview.backend import Patch
    from inversionview.bank.store import ActivationBank
    from inversionview.decoder.config import DecoderConfig
    from inversionview.decoder.decoder import Decoder
    from inversionview.decoder.training import TrainConfig, train
    from inversionview.errors import InversionViewError
    from inversionview.explorer.widget import show
    from inversionview.inputs import Inputs
    from inversionview.preimage.core import Preimage, Query, Sample
    from inversionview.preimage.sampled import Setting
    from inversionview.probed import ProbedModel
    from inversionview.sites import Site
    from inversionview.study import Study, load
    from inversionview.texts import TextInputs


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'inversionview' has no attribute {name!r}")
    return getattr(import_module(f"inversionview.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
