"""Factual statements: the shipped ones, and those of a user's file, of COUNTERFACT, known_1000 and BEAR.

A statement is a prompt about a subject that ends right before its object: "The capital of France is" → "Paris". COUNTERFACT and
known_1000 are of Meng et al. 2022 (arXiv 2202.05262), BEAR of Wiland et al. 2024 (arXiv 2404.04113); neither is shipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inversionview.core.errors import InputError
from inversionview.records.reading import located, read
from inversionview.records.tables import is_saved
from inversionview.records.texts import kind_of, left_out
from inversionview.studies.shipped import FILES, check_shipped

NONE = "–"
"""The relation of a sentence that asks for nothing, and the value of a feature that an input lacks."""
SLOT = "{}"
RESERVED = ("subject", "relation", "template", "object", "known")
"""Names that attributes must not have: features are called so."""
TEMPLATES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "country": {
        "capital": ("The capital of {} is", "The capital city of {} is", "{} is a country whose capital is"),
        "continent": ("{} is a country on the continent of", "The country of {} lies on the continent of"),
        "language": ("The official language of {} is", "In {}, the official language is"),
        "currency": ("The currency of {} is the", "In {}, people pay with the"),
        NONE: ("Last week I read a long article about {} and", "We talked about {} for a while, and then"),
    },
    "city": {
        "country": ("{} is a city in the country of", "The city of {} is located in the country of"),
        "continent": ("The city of {} is on the continent of",),
        "language": ("{} is in a country whose official language is",),
        "currency": ("In the city of {}, people pay with the",),
        "capital_of": ("{} is the capital of", "The city of {} is the capital of"),
        NONE: ("We talked about {} for a while, and then",),
    },
    "state": {
        "capital": ("The capital of the state of {} is", "The capital city of {} is"),
        "abbreviation": ("The postal abbreviation of the state of {} is",),
        "country": ("{} is a state in the country of",),
        NONE: ("Last week I read a long article about {} and",),
    },
    "state capital": {
        "state": ("{} is the capital of the state of", "The city of {} is the capital of the US state of"),
        "country": ("{} is a city in the country of",),
        NONE: ("We talked about {} for a while, and then",),
    },
    "element": {
        "symbol": ("The chemical symbol for {} is", "The symbol of the chemical element {} is"),
        NONE: ("We talked about {} for a while, and then",),
    },
}
"""For each kind of subject and each relation the prompts, the subject in place of {}."""
_OWN = '{"prompt": "The capital of {} is", "subject": "France", "relation": "capital", "object": "Paris"}'


@dataclass(frozen=True)
class FactStatement:
    """A prompt and what is to follow."""

    template: str
    """The prompt with {} where the subject stands."""
    subject: str
    relation: str = NONE
    object: str = ""
    """Empty where nothing is asked for."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    """What holds of the subject, whatever is asked for."""
    article: str = ""
    """Stands before the subject in a sentence: "the "."""

    def __post_init__(self) -> None:
        texts = (self.template, self.subject, self.relation, self.object, *self.attributes, *self.attributes.values())
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("all values are texts")
        if self.template.count(SLOT) != 1:
            raise ValueError("the prompt names the subject as {}, once")
        if not self.subject.strip() or not self.relation.strip():
            raise ValueError("subject and relation are not empty")
        if taken := [name for name in self.attributes if name in RESERVED]:
            raise ValueError(f"an attribute cannot be called {taken[0]}")

    @property
    def text(self) -> str:
        """The prompt."""
        return (self._begin + self.template.partition(SLOT)[2]).rstrip()

    @property
    def end(self) -> int:
        """Where the subject ends in the prompt, in characters."""
        return len(self._begin)

    @property
    def _begin(self) -> str:
        """The prompt up to the end of its subject; a sentence begins with a capital."""
        begin = self.template.partition(SLOT)[0] + self.article + self.subject.strip()
        return begin[0].upper() + begin[1:] if self.article else begin


def read_statements(source: str | Path | None = None) -> list[FactStatement]:
    """Return the shipped statements, or those of a file or folder.

    Args:
        source: a file of records (JSON, CSV, Parquet …) with ``prompt``, ``subject`` and, as far as there are any,
            ``relation``, ``object`` and ``attributes``; COUNTERFACT's file or known_1000's; or a folder of BEAR, with
            ``metadata_relations.json`` and a JSONL file for each relation.

    Warns:
        LeftOut: the file of one of BEAR's relations is missing.

    Raises:
        InputError: it cannot be read, or is of another form; the line is named.
    """
    if source is None:
        return list(_shipped())
    path = located(source)
    found = list(_bear(path) if path.is_dir() and not is_saved(path) else _records(path))
    if not found:
        raise InputError(f"{path} holds no statement: give lines such as {_OWN}.")
    return found


def _shipped() -> Iterator[FactStatement]:
    check_shipped("facts/subjects.jsonl")
    for _, subject, _ in read(FILES / "facts" / "subjects.jsonl"):
        attributes = {"kind": subject["kind"], **subject["attributes"]}
        for relation, templates in TEMPLATES[subject["kind"]].items():
            if relation == NONE or relation in attributes:
                for template in templates:
                    yield FactStatement(
                        template, subject["subject"], relation, attributes.get(relation, ""), attributes,
                        "the " if subject.get("the") else "",
                    )  # fmt: skip


# -- files of the user's ----------------------------------------------------------------------------------------------


def _records(path: Path) -> Iterator[FactStatement]:
    for record in read(path):
        try:
            yield _statement(record.value)
        except (KeyError, TypeError, ValueError) as error:
            why = f"it lacks {error}" if isinstance(error, KeyError) else error
            raise InputError(
                f"{record.place} is no fact ({why}): write {_OWN}, perhaps with attributes, or a record of COUNTERFACT or of "
                "known_1000."
            ) from error


def _statement(record: Any) -> FactStatement:
    """Return the statement of a record of COUNTERFACT, of ROME's known_1000 or of the project's own form."""
    if not isinstance(record, dict):
        raise TypeError(f"it is {kind_of(record)}, no object")
    if "requested_rewrite" in record:
        asked = _inner(record, "requested_rewrite")
        prompt, subject, relation = (_string(asked, name) for name in ("prompt", "subject", "relation_id"))
        return FactStatement(prompt, subject, relation, _string(_inner(asked, "target_true"), "str").strip())
    if "template" in record and "attribute" in record:
        template, subject, relation, of = (
            _string(record, name) for name in ("template", "subject", "relation_id", "attribute")
        )
        return FactStatement(template, subject, relation, of.strip())
    given = {name: value for name, value in record.items() if value not in (None, "")}  # a table has a cell in every row
    unknown = [name for name in given if name not in ("prompt", "subject", "relation", "object", "attributes")]
    if unknown:
        raise ValueError(f"there is no field {unknown[0]!r}")
    rest = {name: given[name] for name in ("relation", "object", "attributes") if name in given}
    if "attributes" in rest:
        some = _inner(rest, "attributes")
        rest["attributes"] = {name: _string(some, name) for name, value in some.items() if value is not None}
    for name in ("relation", "object"):
        rest |= {name: _string(rest, name)} if name in rest else {}
    made = FactStatement(_string(given, "prompt"), _string(given, "subject"), **rest)
    if bool(made.object.strip()) != (made.relation != NONE):
        raise ValueError("relation and object are both given or both left out")
    return made


def _string(record: Mapping[str, Any], name: str) -> str:
    value = record[name]
    if not isinstance(value, str):
        raise TypeError(f"{name!r} is {kind_of(value)}, not a text")
    return value


def _inner(record: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = record[name]
    if not isinstance(value, dict):
        raise TypeError(f"{name!r} is {kind_of(value)}, no object")
    return value


def _bear(folder: Path) -> Iterator[FactStatement]:
    """Yield BEAR's statements under every template that ends in its object; of relations whose file is missing none."""
    index = folder / "metadata_relations.json"
    try:
        (relations,) = [record.value for record in read(index)]
        templates = {name: list(map(_prompt, relation["templates"])) for name, relation in relations.items()}
        spaces = {name: _answers(relation) for name, relation in relations.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index} is not BEAR's list of relations with their templates ({error}).") from error
    wanted = [name for name, prompts in templates.items() if any(prompts)]
    lacking = []
    for name in wanted:
        path = folder / f"{name}.jsonl"
        records = list(read(path)) if path.exists() else []
        lacking += [] if records else [path.name]
        for record in records:
            try:
                yield from _stated(record.value, name, templates[name], spaces[name])
            except (KeyError, TypeError, ValueError) as error:
                why = f"it lacks {error}" if isinstance(error, KeyError) else error
                raise InputError(f"{record.place} is no instance of BEAR with sub_label and obj_label ({why}).") from error
    if lacking and len(lacking) < len(wanted):
        files = ", ".join(lacking[:10]) + (", …" if len(lacking) > 10 else "")
        left_out(f"{len(lacking)} of {len(wanted)} relations left out, whose files {folder} lacks, or are empty: {files}.")


def _stated(record: Any, relation: str, prompts: Sequence[str], answers: Mapping[str, str]) -> Iterator[FactStatement]:
    """Yield an instance of BEAR's under each prompt."""
    if not isinstance(record, dict):
        raise TypeError(f"it is {kind_of(record)}, no object")
    answer = _string(record, "obj_label") if "obj_label" in record else answers[_string(record, "obj_id")]
    subject = _string(record, "sub_label")
    yield from (FactStatement(prompt, subject, relation, answer) for prompt in prompts if prompt)


def _answers(relation: Mapping[str, Any]) -> dict[str, str]:
    return dict(zip(relation.get("answer_space_ids", ()), relation.get("answer_space_labels", ()), strict=False))


def _prompt(template: str) -> str:
    """Return what stands before the object [Y], {} in place of [X]; nothing where the object is not the last word."""
    before, _, after = template.partition("[Y]")
    return before.replace("[X]", SLOT).rstrip() if before.count("[X]") == 1 and not after.strip(" .!?") else ""
