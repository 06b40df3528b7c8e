"""InversionView: read what a neural activation encodes.

    import inversionview as iv

    study = iv.load("addition")  # or iv.load(model="gpt2"), iv.load("runs/mine")
    query = study.query("615+861=1476", at="=", site="a0.0")
    iv.read(study, query)  # its preimage, exact where that takes seconds; or iv.search, iv.walk
    iv.inform(study)  # bits about each feature, at every site and position; also iv.bits
    iv.patch(study, ["=:a0.0"])  # does the answer follow? also iv.ablate, iv.flow, iv.attribute
    iv.interpret(study, 10, "a0.0", "=")  # what it encodes, in a sentence with a score; of others' sentences iv.judge
    iv.truth(study)  # the decoder held against exact preimages; also iv.agree, iv.evaluate

Verbs are functions whose first argument is a study. This list is the public surface; a name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_PUBLIC = {
    "ActivationBank": "bank.store",
    "Decoder": "decoder.decoder",
    "DecoderConfig": "decoder.config",
    "Inputs": "corpora.inputs",
    "InversionViewError": "core.errors",
    "Patch": "model.backend",
    "Preimage": "preimage.preimage",
    "ProbedModel": "model.probed",
    "Query": "preimage.preimage",
    "Sample": "preimage.preimage",
    "Scope": "core.scope",
    "Setting": "sources.settings",
    "Site": "model.sites.site",
    "Study": "studies.study",
    "TextInputs": "corpora.texts",
    "TextSource": "corpora.natural",
    "TrainConfig": "decoder.recipe",
    "ablate": "analyses.ablate.verb",
    "agree": "analyses.agree.verb",
    "attribute": "analyses.attribute.verb",
    "bits": "analyses.bits.verb",
    "build_bank": "studies.banks",
    "calibrate": "analyses.calibrate.verb",
    "check_bank": "studies.banks",
    "common": "preimage.common",
    "complete": "analyses.complete.verb",
    "evaluate": "analyses.evaluate.verb",
    "flow": "analyses.flow.verb",
    "heads": "analyses.heads.verb",
    "inform": "analyses.inform.verb",
    "interpret": "analyses.interpret.verb",
    "judge": "analyses.judge.verb",
    "keep_truth": "analyses.truth.verb",
    "known_facts": "analyses.recall.verb",
    "known_heads": "analyses.heads.verb",
    "latents": "analyses.latents.verb",
    "load": "studies.load",
    "named_heads": "analyses.heads.verb",
    "norms": "analyses.norms.verb",
    "pairs": "analyses.patch.verb",
    "patch": "analyses.patch.verb",
    "query": "studies.queries",
    "random_queries": "studies.queries",
    "rates": "analyses.attribute.verb",
    "read": "sources.verb",
    "recall": "analyses.recall.verb",
    "recover": "analyses.recover.verb",
    "recover_vector": "analyses.recover.vector_verb",
    "retrieval_heads": "analyses.recall.verb",
    "search": "sources.corpus",
    "show": "preimage.widget",
    "texts": "analyses.complete.verb",
    "threshold": "analyses.threshold.verb",
    "train": "decoder.training",
    "truth": "analyses.truth.verb",
    "walk": "sources.walk",
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
    "Scope",
    "Setting",
    "Site",
    "Study",
    "TextInputs",
    "TextSource",
    "TrainConfig",
    "__version__",
    "ablate",
    "agree",
    "attribute",
    "bits",
    "build_bank",
    "calibrate",
    "check_bank",
    "common",
    "complete",
    "evaluate",
    "flow",
    "heads",
    "inform",
    "interpret",
    "judge",
    "keep_truth",
    "known_facts",
    "known_heads",
    "latents",
    "load",
    "named_heads",
    "norms",
    "pairs",
    "patch",
    "query",
    "random_queries",
    "rates",
    "read",
    "recall",
    "recover",
    "recover_vector",
    "retrieval_heads",
    "search",
    "show",
    "texts",
    "threshold",
    "train",
    "truth",
    "walk",
]

if TYPE_CHECKING:
    from inversionview.analyses.ablate.verb import ablate
    from inversionview.analyses.agree.verb import agree
    from inversionview.analyses.attribute.verb import attribute, rates
    from inversionview.analyses.bits.verb import bits
    from inversionview.analyses.calibrate.verb import calibrate
    from inversionview.analyses.complete.verb import complete, texts
    from inversionview.analyses.evaluate.verb import evaluate
    from inversionview.analyses.flow.verb import flow
    from inversionview.analyses.heads.verb import heads, known_heads, named_heads
    from inversionview.analyses.inform.verb import inform
    from inversionview.analyses.interpret.verb import interpret
    from inversionview.analyses.judge.verb import judge
    from inversionview.analyses.latents.verb import latents
    from inversionview.analyses.norms.verb import norms
    from inversionview.analyses.patch.verb import pairs, patch
    from inversionview.analyses.recall.verb import known_facts, recall, retrieval_heads
    from inversionview.analyses.recover.vector_verb import recover_vector
    from inversionview.analyses.recover.verb import recover
    from inversionview.analyses.threshold.verb import threshold
    from inversionview.analyses.truth.verb import keep_truth, truth
    from inversionview.bank.store import ActivationBank
    from inversionview.core import errors as errors
    from inversionview.core.errors import InversionViewError
    from inversionview.core.scope import Scope
    from inversionview.corpora.inputs import Inputs
    from inversionview.corpora.natural import TextSource as TextSource
    from inversionview.corpora.texts import TextInputs
    from inversionview.decoder.config import DecoderConfig
    from inversionview.decoder.decoder import Decoder
    from inversionview.decoder.recipe import TrainConfig
    from inversionview.decoder.training import train
    from inversionview.model.backend import Patch
    from inversionview.model.probed import ProbedModel
    from inversionview.model.sites.site import Site
    from inversionview.preimage.common import common
    from inversionview.preimage.preimage import Preimage, Query, Sample
    from inversionview.preimage.widget import show
    from inversionview.sources.corpus import search
    from inversionview.sources.settings import Setting
    from inversionview.sources.verb import read
    from inversionview.sources.walk import walk
    from inversionview.studies.banks import build_bank, check_bank
    from inversionview.studies.load import load
    from inversionview.studies.queries import query, random_queries
    from inversionview.studies.study import Study


_MODULES = {"errors": "core.errors"}
"""Modules that are public as a whole: ``except iv.errors.InputError``."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"inversionview.{_MODULES[name]}")
    if name not in _PUBLIC:
        raise AttributeError(f"module 'inversionview' has no attribute {name!r}")
    return getattr(import_module(f"inversionview.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES])
