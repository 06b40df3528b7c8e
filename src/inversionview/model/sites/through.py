"""What is read of a site's vector in place of all its numbers: coordinates along directions, or latents of a sparse dictionary.

=======================================  =============================================  ====================================
written behind a site's name             what is read                                   what is written
=======================================  =============================================  ====================================
``@probe.safetensors:w[3]``              the coordinate along one direction of a file   its component; the rest stays
``@probe.npy``                           coordinates along all its rows, orthonormal    theirs; the rest stays
``|sae:DIR#1234``                        the code of one latent                         its change, along the decoder's row
``|sae:DIR``                             the codes of all latents                       theirs, along the decoder's rows
=======================================  =============================================  ====================================

``|sae:addition`` and ``|sae:counting`` are the dictionaries that the package ships for these studies. ``|sae!:DIR`` reads one
where its files say that it does not belong. Files are read when they are first needed.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from inversionview.core.errors import SettingError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from inversionview.model.dictionaries.dictionary import Dictionary


_MARK = re.compile(r"@|\|sae!?:")
_SHIPPED = Path(__file__).parents[2] / "studies" / "files"
_LATENT = re.compile(r"(?P<path>.+)#(?P<latent>\d{1,9})", re.DOTALL)


def split(name: str) -> tuple[str, str]:
    """Return the name of a site, and what is read through, with its mark; empty where all of it is read."""
    found = _MARK.search(name)
    return (name, "") if found is None else (name[: found.start()].strip(), name[found.start() :].strip())


class Through(ABC):
    """What is read through.

    Attributes:
        numbers: how many numbers are read.
        taken: how many numbers a vector must have.
        fingerprint: what tells the file's content apart.
        hook: where the file says that it belongs, in TransformerLens' notation.
        rectified: 0 is a value of its own: it is off.
        centred: it was made of a model whose writing weights were centred, which changes its activations.
    """

    numbers: int
    taken: int
    fingerprint: str
    hook: str | None
    rectified = False
    centred = False

    @abstractmethod
    def read(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch numbers"]:
        """Return what is read of vectors."""

    @abstractmethod
    def rows(self, like: Float[Tensor, "*batch d"]) -> Float[Tensor, "numbers d_in"]:
        """Return what each number adds to a vector, per unit."""


class Directions(Through):
    """Orthonormal directions."""

    def __init__(self, basis: Float[Tensor, "numbers d_in"], fingerprint: str, hook: str | None) -> None:
        self.basis, self.fingerprint, self.hook = basis, fingerprint, hook
        self.numbers, self.taken = basis.shape

    def read(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch numbers"]:
        """Return coordinates."""
        return x @ self.basis.to(x).T

    def rows(self, like: Float[Tensor, "*batch d"]) -> Float[Tensor, "numbers d_in"]:
        """Return the directions."""
        return self.basis.to(like)


class Latents(Through):
    """The codes of a dictionary, of one latent or of all."""

    rectified = True

    def __init__(self, dictionary: Dictionary, latent: int | None) -> None:
        self.dictionary, self.latent = dictionary, latent
        self.fingerprint, self.hook, self.centred = dictionary.fingerprint, dictionary.hook, dictionary.centred
        if dictionary.hook is not None and dictionary.head is not None:
            self.hook = f"{dictionary.hook}[{dictionary.head}]"
        self.numbers, self.taken = dictionary.d_latents if latent is None else 1, dictionary.d_in

    def read(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch numbers"]:
        """Return codes."""
        some = x.float()
        codes = self.dictionary.encode(some) if self.latent is None else self.dictionary.encode_some(some, [self.latent])
        return codes.to(x)

    def rows(self, like: Float[Tensor, "*batch d"]) -> Float[Tensor, "numbers d_in"]:
        """Return the decoder's rows.

        Raises:
            SettingError: what the dictionary decodes is not what it encodes, or is scaled by each activation itself.
        """
        if self.dictionary.transcoder:
            raise SettingError(
                f"{self.dictionary.source} is a transcoder: what its latents write stands at {self.dictionary.hook_out}, not "
                "where they are read, so they cannot be replaced there."
            )
        if self.dictionary.normalisation != "none":
            raise SettingError(
                f"{self.dictionary.source} normalises each activation by itself, so its latents write no fixed direction: they "
                "can be read, not replaced."
            )
        import torch

        chosen = range(self.dictionary.d_latents) if self.latent is None else [self.latent]
        return torch.stack([self.dictionary.direction(latent) for latent in chosen]).to(like) / self.dictionary.factor


def opened(through: str) -> Through:
    """Return what stands behind a site's name; see ``split``.

    Raises:
        InputError, WeightsError, SettingError: the file is missing or damaged, or holds no such vector or latent.
    """
    if through == "@":
        raise SettingError("'@' names no file: write for instance x0.post@probe.safetensors.")
    return _opened(through, _stamp(path_of(through)))


def foreign(through: str) -> bool:
    """Return whether it shall be read wherever the files say that it belongs."""
    return through.startswith("|sae!:")


def all_the_same(name: str) -> str:
    """Return the name of a site, or several, with every dictionary in it read wherever its files say that it belongs."""
    return name.replace("|sae:", "|sae!:")


def path_of(through: str) -> Path:
    """Return the file or folder that is named behind a site's name; of the hub's dictionaries a path that is not there.

    Raises:
        SettingError: it names none.
    """
    if through.startswith("@"):
        from inversionview.records.vectors.vectors import parsed

        return parsed(through[1:]).path
    return Path(_named(through)[0]).expanduser()


def shipped_with(through: str) -> bool:
    """Return whether it is a dictionary that the package ships."""
    return through.startswith("|") and shipped(through.partition(":")[2].partition("#")[0]) is not None


def shipped(name: str) -> Path | None:
    """Return the dictionary that the package ships for a study of that name; ``None`` where it ships none."""
    found = sorted((_SHIPPED / name).glob("sae-*")) if re.fullmatch(r"[a-z]+", name) else []
    return found[0] if found else None


def _named(through: str) -> tuple[str, int | None]:
    """Return the dictionary that is named, and its latent."""
    name = through.partition(":")[2]
    found = _LATENT.fullmatch(name)
    if not name or (found is None and "#" in name):
        raise SettingError(f"{through!r} names no latent: write |sae:FOLDER#NUMBER, or |sae:FOLDER for all latents.")
    path, latent = (name, None) if found is None else (found["path"], int(found["latent"]))
    return str(shipped(path) or path), latent


def _stamp(path: Path) -> tuple[int, ...]:
    """Return what changes when a file, or one in a folder, is written."""
    try:
        every = [path, *path.iterdir()] if path.is_dir() else [path]
        stats = [os.stat(each) for each in every]
    except OSError:
        return ()  # reading it tells what is wrong, or it lies on the hub
    return (max(stat.st_mtime_ns for stat in stats), sum(stat.st_size for stat in stats), len(stats))


@lru_cache(maxsize=256)
def _opened(through: str, stamp: tuple[int, ...]) -> Through:
    if through.startswith("@"):
        return _directions(through[1:])
    name, latent = _named(through)
    dictionary = _dictionary(name, stamp)
    return Latents(dictionary, None if latent is None else dictionary.checked(latent))


@lru_cache(maxsize=4)
def _dictionary(name: str, stamp: tuple[int, ...]) -> Dictionary:
    from inversionview.model.dictionaries.loading import load_dictionary

    return load_dictionary(name)


def _directions(spec: str) -> Directions:
    import torch

    from inversionview.core.integrity import digest
    from inversionview.records.vectors.vectors import orthonormal, read_vectors

    found = read_vectors(spec)
    basis = orthonormal(found.values)
    return Directions(torch.from_numpy(basis), digest(basis.tobytes())[:16], found.hook)
