"""Heads that are known before anything is computed: shipped with a study, kept from an earlier run, or published.

Kept results lie in the run's folder or in the user's cache, named by the fingerprints of model and inputs.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter

from inversionview.analyses.heads.result import GROUPS, HeadTable, NamedHead
from inversionview.core.integrity import read_sealed, sealed
from inversionview.core.storage import replacing
from inversionview.model.backend import Shape
from inversionview.studies.definition import PublishedHeads
from inversionview.studies.shipped import FILES, check_shipped


def published_heads(published: PublishedHeads, shape: Shape) -> list[NamedHead]:
    """Return the published heads of a model of this shape; none where they are another's."""
    if shape != published.shape:
        return []
    groups = published.groups.items()
    return [NamedHead(f"a{head}", group, GROUPS[group]) for group, heads in groups for head in heads.split()]


def shipped_heads(study: str, model: str, inputs: str) -> HeadTable | None:
    """Return what is shipped for a study and a model's fingerprint, if its inputs are those of this fingerprint.

    Raises:
        WeightsError: it is damaged.
    """
    path = FILES / study / f"heads-{model}.json"
    if path.is_file():
        check_shipped(f"{study}/{path.name}")
    return read_heads(path, model, inputs)


def heads_cache(folder: Path | None, model: str, inputs: str) -> Path:
    """Return where the heads of a model on some inputs are kept: in the run's folder, or in the user's cache."""
    from platformdirs import user_cache_path

    return (user_cache_path("inversionview") / "heads" if folder is None else folder) / f"heads-{model}-{inputs}.json"


def read_heads(path: Path, model: str, inputs: str) -> HeadTable | None:
    """Return a kept result; ``None`` where there is none, or it is damaged or of another model or other inputs."""
    try:
        table = TypeAdapter(HeadTable).validate_python(asdict(HeadTable.from_json(read_sealed(path))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return table if (table.fingerprint, table.inputs) == (model, inputs) else None


def keep_heads(table: HeadTable, path: Path) -> None:
    """Write a result, a line for each head, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    content = sealed(table.to_json())
    heads = ",\n".join(json.dumps(head, ensure_ascii=False) for head in content["heads"])
    rest = json.dumps({key: value for key, value in content.items() if key != "heads"}, ensure_ascii=False)
    with replacing(path) as temporary:
        temporary.write_text(f'{rest[:-1]},\n"heads": [\n{heads}\n]}}\n', encoding="utf-8")
