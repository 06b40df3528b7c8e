"""A study binds what reading needs: a probed model, its inputs, sites and positions, a distance, ε, and a decoder.

``load("addition")`` gives a shipped one, ``load("runs/mine")`` one that ``inversionview train`` made.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Int

from inversionview.bank import folders
from inversionview.bank.store import ActivationBank
from inversionview.core.arrays import Ids
from inversionview.core.progress import Progress
from inversionview.corpora.inputs import Inputs
from inversionview.corpora.positions import Positions, end_alone
from inversionview.decoder.bias import Truth, kept_truth
from inversionview.decoder.decoder import Decoder
from inversionview.model.chat_template import Messages
from inversionview.model.chats import found_in
from inversionview.model.probed import ProbedModel
from inversionview.model.sites.patterns import expand, find_site
from inversionview.model.sites.site import Site
from inversionview.preimage.preimage import Query
from inversionview.preimage.query import Vector, check_one, from_outside, queried
from inversionview.studies.decoders import decoder_path, opened_decoder
from inversionview.studies.definition import Definition
from inversionview.studies.first_bank import BeginBank
from inversionview.studies.open_banks import OpenBanks
from inversionview.studies.registry import default_model_called, defined
from inversionview.studies.spec import StudySpec


class Study:
    """See the module's text. What is measured with a study are functions: ``iv.read(study, query)``, ``iv.patch(study)``, …

    Attributes:
        name: its name or the path of its run.
        spec: its settings.
        model: the probed model.
        folder: of its run, where it has one.
        banks: those that are open.
    """

    def __init__(self, name: str, spec: StudySpec, model: ProbedModel, folder: Path | None = None) -> None:
        self.name, self.spec, self.model, self.folder = name, spec, model, folder
        self.sites: list[Site] = expand(spec.sites, model.sites)
        self.banks = OpenBanks(self)

    def __repr__(self) -> str:
        return f"<Study {self.name} on {self.model.name}: iv.read(study, query), iv.search, iv.walk, iv.inform, iv.patch, …>"

    @property
    def definition(self) -> Definition:
        """What the study is: ask it, not for the study's name."""
        return defined(self.spec.inputs)

    @cached_property
    def inputs(self) -> Inputs:
        """The study's inputs; for a run on texts, its Arrow corpus, memory-mapped.

        Raises:
            InputError: it is a model alone.
        """
        self.definition.check_corpus(self.name)
        return self.definition.inputs(self.model, self.spec.options, self.folder)

    @cached_property
    def decoder(self) -> Decoder:
        """The trained decoder.

        Raises:
            WeightsError: there is none yet.
            InputError: it is a model alone.
            MismatchError: it was trained for another probed model.
        """
        self.definition.check_corpus(self.name)
        return opened_decoder(self.name, self.spec.inputs, self.folder, self.model)

    @property
    def decoded_sites(self) -> list[Site]:
        """Those of its sites that the decoder was trained on."""
        return [site for site in self.sites if site.short in self.decoder.config.sites]

    @cached_property
    def truth(self) -> Truth | None:
        """What was measured of the decoder's bias, as kept beside it; ``None`` where nothing was.

        Raises:
            WeightsError: the file is damaged.
        """
        return None if self.bare else kept_truth(self.decoder_path)

    @property
    def bare(self) -> bool:
        """It is a model alone, without inputs or a decoder."""
        return self.definition.bare

    @property
    def decoder_path(self) -> Path:
        """Where the decoder lies; a run of a shipped study with a bank but no training reads with the shipped one."""
        return decoder_path(self.spec.inputs, self.folder)

    @property
    def model_path(self) -> Path:
        """Where the probed model lies (or its hub name)."""
        default = default_model_called(self.model.name)
        return Path(self.model.name) if default is None else default()

    @property
    def position_names(self) -> list[str]:
        """The named positions of the study's inputs."""
        if not self.definition.positions:
            return ["END"]
        return list(self.inputs.named_positions(self.inputs.tokens(np.zeros(1, dtype=np.int64))))

    def named(self, tokens: Int[np.ndarray, "row pos"]) -> dict[str, Ids]:
        """Return where each named position is in every row; −1 where it is in none."""
        return self.inputs.named_positions(tokens) if self.definition.positions else end_alone(tokens, self.model.vocabulary)

    @cached_property
    def positions(self) -> Positions:
        """What finds positions in inputs."""
        return Positions(self.named, self.model.vocabulary)

    def locate(self, ids: Sequence[int], at: str | int) -> int:
        """Return the index that ``at`` means in an input: a named position, an index or a token; see ``Positions.one``."""
        return self.positions.one(ids, at)

    def query(
        self,
        text: str | Messages | None = None,
        at: str | int | None = None,
        site: str | Site | None = None,
        *,
        vector: Vector | None = None,
    ) -> Query:
        """Return the query: ``text`` run through the probed model and read at one position and site, or a vector from outside.

        Args:
            text: an input, without or with BOS and EOS; or messages of a chat, see ``model.chats``.
            at: a token, a named position (``A1``, ``END``, ``query``) or an index: an int or ``"#8"``, the first token (BOS,
                where texts are run with one) being 0; −1 is the last token of the text, EOS not counted. See ``Chat.place``.
            site: any of the three name styles of ``Site``.
            vector: in place of a text: an activation from elsewhere, whose input is not known, or what names one in a file.

        Raises:
            InputError: the text is empty, too long, or cannot be encoded; the file holds no such vector.
            UnknownPositionError, UnknownSiteError: there is no such place.
            SettingError: there are both a text and a vector, or neither; the vector is of another width.
        """
        check_one(text, at, vector)
        if text is None:
            return from_outside(self.model, vector, site, self.spec.site)
        return queried(self.model, *self.located(text, at), find_site(site or self.spec.site, self.model.sites))

    def located(self, text: str | Messages, at: str | int | None) -> tuple[list[int], int]:
        """Return a text's or chat's ids and the index of ``at``, by default the study's own position."""
        return found_in(self.model, text, self.spec.at if at is None else at, self.locate)

    def bank(
        self,
        folder: ActivationBank | str | Path | None = None,
        *,
        report: Progress | None = None,
        begin: BeginBank | None = None,
        site: Site | Sequence[Site] | None = None,
    ) -> ActivationBank:
        """Return the bank to search: in ``folder``, in the run's folder, the largest in the user's cache, or a new one.

        Args:
            folder: a bank, its folder, or a run's folder that holds one.
            report: called with the share of the inputs that is done, and a note, where a bank must be built first.
            begin: called before that, with its folder and size.
            site: which it must hold, one or several; see ``first_bank``.

        Raises:
            BankError, MismatchError: the bank in ``folder`` is missing, damaged, unfinished or not of the model as it is now.
        """
        self.model.check_unchanged()
        if folder is not None:
            return folders.given(folder, self.model, self.inputs)
        known = self.known_bank(site)
        return self.banks.first(site, report, begin) if known is None else known

    def known_bank(self, site: Site | Sequence[Site] | None = None) -> ActivationBank | None:
        """Return the bank that is searched unless another is named, ``None`` where none was built yet that holds the sites.

        Raises:
            BankError, MismatchError: the bank in the run's folder is damaged, unfinished or another model's.
        """
        return self.banks.known(site)
