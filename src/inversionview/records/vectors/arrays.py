"""Arrays by their names: ``.safetensors``, ``.npy`` and ``.npz``, of which nothing is unpickled."""

from __future__ import annotations

import math
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from inversionview.core.errors import InputError, InversionViewError
from inversionview.core.memory import check_bytes
from inversionview.records.vectors.found import Found, chosen, damaged, named_hook, named_model, taken


def read_safetensors(path: Path, key: str | None, row: int | None) -> Found:
    """Return a tensor of a safetensors file, which is mapped: of a large one only the row that is asked for is read.

    Raises:
        InputError: the file is damaged, or there is no such tensor or row.
        SettingError: the tensor needs more memory than can be had.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            key, name = chosen(path, "tensor", {name: name for name in sorted(file.keys())}, key)
            tensor = taken(file.get_tensor(name), row, f"{path}:{key}")
            told = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path, error, "safetensors") from error
    if tensor.is_complex() or str(tensor.dtype) == "torch.bool":
        raise InputError(f"{path}:{key} holds {tensor.dtype}, not real numbers: give a vector of floating-point numbers.")
    check_bytes(4 * tensor.numel(), f"{path}:{key}, of {tensor.numel():,} numbers,")
    return Found(tensor.float().numpy().copy(), key, named_hook([told]), named_model([told]), (told,) if told else ())


def read_npy(path: Path, key: str | None, row: int | None) -> Found:
    """Return the array of a ``.npy`` file, which is mapped.

    Raises:
        InputError: the file is damaged or holds pickled objects, there is no such row, or a key was given.
        SettingError: it needs more memory than can be had.
    """
    if key is not None:
        raise InputError(f"{path} holds one array and no names: leave out :{key}, or take one of its rows by [i].")
    try:
        with path.open("rb") as file:
            np.lib.format.read_magic(file)  # NumPy takes whatever begins otherwise for a pickle
        values = taken(np.load(path, mmap_mode="r", allow_pickle=False), row, str(path))
    except InversionViewError:
        raise
    except Exception as error:  # what damaged headers make NumPy raise shares no base
        raise _explained(path, error, "NumPy's .npy") from error
    check_bytes(values.nbytes, f"{path}, of {values.size:,} numbers,")
    return Found(np.array(values))


def read_npz(path: Path, key: str | None, row: int | None) -> Found:
    """Return an array of a ``.npz`` file.

    Raises:
        InputError: the file is damaged or holds pickled objects, or there is no such array or row.
        SettingError: it needs more memory than can be had.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist() if name.endswith(".npy")}
            key, member = chosen(path, "array", members, key)
            check_bytes(2 * member.file_size, f"{path}:{key}, of {member.file_size:,} bytes,")
            values = taken(array_in(archive, member), row, f"{path}:{key}")
    except InversionViewError:
        raise
    except Exception as error:  # as above, and of the archive
        raise _explained(path, error, "NumPy's .npz") from error
    return Found(np.array(values), key)


def array_in(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """Return an array of an open ``.npz`` file; one that is stated to be larger than what is there takes no memory.

    Raises:
        ValueError: it is, or holds pickled objects.
        Exception: it is damaged; NumPy's errors and the archive's share no base.
    """
    content = BytesIO(archive.read(member))
    _check_header(content, member.file_size)
    content.seek(0)
    values: npt.NDArray[Any] = np.load(content, allow_pickle=False)
    return values


def _check_header(file: BytesIO, size: int) -> None:
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in read:
        raise ValueError(f"version {version[0]}.{version[1]}")
    shape, _, kind = read[version](file)
    if kind.hasobject:
        raise ValueError("Object arrays cannot be loaded")
    if math.prod(shape) * kind.itemsize > size:
        raise ValueError(f"it states {list(shape)} numbers and ends before them")


def _explained(path: Path, error: Exception, form: str) -> InputError:
    if any(said in str(error) for said in ("pickle", "Object arrays", "Python objects")):
        return InputError(
            f"{path} holds pickled Python objects, which could run code: save plain numbers, "
            "numpy.save(path, array.astype('float32'))."
        )
    return damaged(path, error, form)
