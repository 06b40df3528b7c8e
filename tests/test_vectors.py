"""Vectors of users' files: every form gives the numbers that were written, and what is wrong is told in one sentence.

Files are written by the libraries of their forms, or as those that they are called after lay them out.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from inversionview.core.errors import InputError
from inversionview.records.vectors.vectors import orthonormal, parsed, read_vectors

gguf = pytest.importorskip("gguf")

quick = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
numbers = st.floats(-1e6, 1e6, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6)
matrices = st.tuples(st.integers(1, 5), st.integers(1, 7)).flatmap(lambda shape: arrays(np.float32, shape, elements=numbers))


def column_table(rows: np.ndarray, name: str = "activation_vector", **others: list[Any]) -> pa.Table:
    return pa.table({name: pa.array(rows.tolist(), pa.list_(pa.float32())), **others})


def write_stream(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


def write_control(path: Path, directions: dict[int, np.ndarray], model: str = "mistral") -> None:
    """As repeng's ``ControlVector.export_gguf``."""
    writer = gguf.GGUFWriter(path, "controlvector")
    writer.add_string("controlvector.model_hint", model)
    writer.add_uint32("controlvector.layer_count", len(directions))
    for layer, direction in directions.items():
        writer.add_tensor(f"direction.{layer}", direction)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


FORMS: dict[str, Callable[[Path, np.ndarray], object]] = {
    ".npy": lambda path, rows: np.save(path, rows),
    ".npz": lambda path, rows: np.savez(path, only=rows),
    ".safetensors": lambda path, rows: save_file({"only": rows}, path),
    ".parquet": lambda path, rows: pq.write_table(column_table(rows), path),
    ".feather": lambda path, rows: pyarrow.feather.write_feather(column_table(rows), path),
    ".arrow": lambda path, rows: write_stream(path, column_table(rows)),
    ".json": lambda path, rows: path.write_text(json.dumps(rows.tolist())),
}


@pytest.mark.parametrize("form", FORMS)
@quick
@given(rows=matrices, data=st.data())
def test_every_form_gives_what_was_written(tmp_path: Path, form: str, rows: np.ndarray, data: st.DataObject) -> None:
    assume(rows.any(1).all())
    path = tmp_path / f"v{form}"
    FORMS[form](path, rows)
    whole = read_vectors(str(path))
    np.testing.assert_array_equal(whole.values, rows)
    assert whole.values.dtype == np.float32
    assert (len(whole), whole.width) == rows.shape
    row = data.draw(st.integers(-len(rows), len(rows) - 1))
    one = read_vectors(f"{path}[{row}]")
    np.testing.assert_array_equal(one.values, rows[[row]])
    assert one.source == f"{path}[{row}]"


@pytest.mark.parametrize("form", FORMS)
@quick
@given(rows=matrices, row=st.integers(-9, 9))
def test_a_row_that_is_not_there(tmp_path: Path, form: str, rows: np.ndarray, row: int) -> None:
    assume(rows.any(1).all() and not -len(rows) <= row < len(rows))
    path = tmp_path / f"v{form}"
    FORMS[form](path, rows)
    with pytest.raises(InputError, match=rf"rows 0 to {len(rows) - 1}, not {row}"):
        read_vectors(f"{path}[{row}]")


@quick
@given(layers=st.dictionaries(st.integers(0, 99), arrays(np.float32, 5, elements=numbers), min_size=1, max_size=4))
def test_control_vectors(tmp_path: Path, layers: dict[int, np.ndarray]) -> None:
    assume(all(each.any() for each in layers.values()))
    path = tmp_path / "control.gguf"
    write_control(path, layers)
    for layer, direction in layers.items():
        for spec in (f"{path}:{layer}", f"{path}:direction.{layer}"):
            found = read_vectors(spec)
            np.testing.assert_array_equal(found.values, direction[None])
            assert found.hook == f"blocks.{layer}.hook_resid_post"
            assert found.told == ({"layer": layer, "model_hint": "mistral"},)


@pytest.mark.parametrize("kind", [np.float64, np.float16, np.int32, ">f4"])
def test_other_numbers_become_float32(tmp_path: Path, kind: Any) -> None:
    rows = np.array([[1, -2, 3], [4, 5, 6]], dtype=kind)
    np.save(tmp_path / "v.npy", rows)
    np.testing.assert_array_equal(read_vectors(tmp_path / "v.npy").values, rows.astype(np.float32))


def test_half_precision_of_control_vectors_and_tensors(tmp_path: Path) -> None:
    rows = torch.from_numpy(ROWS).bfloat16()
    save_tensors({"w": rows}, tmp_path / "v.safetensors")
    np.testing.assert_array_equal(read_vectors(tmp_path / "v.safetensors").values, rows.float().numpy())
    for kind in (np.float16, np.float64):
        write_control(tmp_path / "v.gguf", {3: ROWS[0].astype(kind)})
        np.testing.assert_array_equal(read_vectors(f"{tmp_path}/v.gguf:3").values, ROWS[[0]].astype(kind).astype(np.float32))


@pytest.mark.parametrize("form", [".safetensors", ".npz"])
def test_a_name_among_several(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"v{form}"
    tensors = {"weight": ROWS, "bias": ROWS[0], "a:b[0]": ROWS[1:]}
    save_file(tensors, path) if form == ".safetensors" else np.savez(path, **tensors)  # type: ignore[func-returns-value, arg-type]
    np.testing.assert_array_equal(read_vectors(f"{path}:weight[2]").values, ROWS[[2]])
    np.testing.assert_array_equal(read_vectors(f"{path}:bias").values, ROWS[[0]])
    np.testing.assert_array_equal(read_vectors(f"{path}:a:b[0][1]").values, ROWS[[2]])
    assert read_vectors(f"{path}:weight").key == "weight"
    with pytest.raises(InputError, match=r"holds several .*bias.* name one, as in .*:"):
        read_vectors(path)
    with pytest.raises(InputError, match=r"has no .* 'wieght', only .* Did you mean 'weight'\?"):
        read_vectors(f"{path}:wieght")
    with pytest.raises(InputError, match=r"one vector and no rows: leave out \[0\]"):
        read_vectors(f"{path}:bias[0]")


def test_one_of_a_stack_of_subspaces(tmp_path: Path) -> None:
    stack = np.stack([ROWS, 2 * ROWS])
    np.save(tmp_path / "v.npy", stack)
    np.testing.assert_array_equal(read_vectors(f"{tmp_path}/v.npy[1]").values, stack[1])
    with pytest.raises(InputError, match=r"of the shape \[2, 4, 6\].*add \[i\]"):
        read_vectors(tmp_path / "v.npy")


def test_what_a_safetensors_file_names(tmp_path: Path) -> None:
    told = {"hook_name": "blocks.3.hook_resid_post", "model_name": "gpt2"}
    save_file({"w": ROWS}, tmp_path / "v.safetensors", told)
    found = read_vectors(tmp_path / "v.safetensors")
    assert (found.hook, found.model, found.told) == ("blocks.3.hook_resid_post", "gpt2", (told,))


@pytest.mark.parametrize("form", [".parquet", ".arrow"])
def test_the_other_columns_of_a_row(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"v{form}"
    table = column_table(ROWS, prompt=["a", "b", "c", "d"], layer=[1, 2, 3, 4], hook_name=["h"] * 4, tokens=[[1]] * 4)
    pq.write_table(table, path, row_group_size=3) if form == ".parquet" else write_stream(path, table)
    found = read_vectors(f"{path}:activation_vector[3]")
    np.testing.assert_array_equal(found.values, ROWS[[3]])
    assert found.told == ({"prompt": "d", "layer": 4, "hook_name": "h"},)
    assert found.hook == "h"
    whole = read_vectors(path)
    np.testing.assert_array_equal(whole.values, ROWS)
    assert [each["prompt"] for each in whole.told] == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(read_vectors(f"{path}:tokens[0]").values, [[1]])
    with pytest.raises(InputError, match=r"'prompt' of .* holds string, no lists of numbers"):
        read_vectors(f"{path}:prompt")


def test_fixed_and_large_lists_and_a_column_of_another_name(tmp_path: Path) -> None:
    for kind in (pa.list_(pa.float64(), 6), pa.large_list(pa.float16())):
        column = pa.array(ROWS.astype(np.float16).tolist(), kind)
        pq.write_table(pa.table({"z": column}), tmp_path / "v.parquet")
        np.testing.assert_array_equal(read_vectors(tmp_path / "v.parquet").values, ROWS.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([[1.0, 2.0], [1.0]], "row 1 of .* has 1 numbers, row 0 has 2"),
        ([[1.0], None], "row 1 of .* is missing"),
        ([[], [1.0]], "row 0 of .* is empty"),
        ([], "has no rows"),
        ([[1.0, None]], "NaN"),
        ([["a"]], "hold string, not numbers"),
    ],
)
def test_columns_that_are_no_vectors(tmp_path: Path, rows: list[Any], said: str) -> None:
    kind = pa.list_(pa.string()) if rows == [["a"]] else pa.list_(pa.float32())
    pq.write_table(pa.table({"activation_vector": pa.array(rows, kind)}), tmp_path / "v.parquet")
    with pytest.raises(InputError, match=said):
        read_vectors(tmp_path / "v.parquet")


def feature(**others: Any) -> dict[str, Any]:
    """A vector as Neuronpedia keeps and gives it."""
    given = {
        "modelId": "gemma-2-2b-it", "layer": "20-neuronpedia-resid-pre", "index": "cl1", "hasVector": True,
        "vector": ROWS[0].tolist(), "vectorLabel": "dinosaurs", "hookName": "blocks.20.hook_resid_pre",
        "vectorDefaultSteerStrength": 44, "topkCosSimIndices": [],
    }  # fmt: skip
    return given | others


NEURONPEDIA: dict[str, Any] = {
    "a feature's page": feature(),
    "what vector/get answers": {"vector": feature()},
    "what is uploaded": {
        "modelId": "gemma-2-2b-it", "layerNumber": 20, "hookType": "hook_resid_pre", "vector": ROWS[0].tolist(),
        "vectorDefaultSteerStrength": 44, "vectorLabel": "dinosaurs",
    },
    "what is answered to that": {
        "message": "Success", "url": "https://neuronpedia.org/…",
        "vector": {
            "modelId": "gemma-2-2b-it", "source": "20-neuronpedia-resid-pre", "index": "cl1", "label": "dinosaurs",
            "defaultSteerStrength": 44, "hookName": "blocks.20.hook_resid_pre", "values": ROWS[0].tolist(),
        },
    },
    "the Python library's": {
        "label": "dinosaurs", "model_id": "gemma-2-2b-it", "source": "20-neuronpedia-resid-pre", "index": "cl1",
        "values": ROWS[0].tolist(), "hook_name": "blocks.20.hook_resid_pre", "default_steer_strength": 44.0, "url": "…",
    },
    "all of one's own": {"vectors": [feature()]},
}  # fmt: skip


@pytest.mark.parametrize("name", NEURONPEDIA)
def test_neuronpedia(tmp_path: Path, name: str) -> None:
    (tmp_path / "v.json").write_text(json.dumps(NEURONPEDIA[name]), encoding="utf-8")
    found = read_vectors(tmp_path / "v.json")
    np.testing.assert_array_equal(found.values, ROWS[[0]])
    assert (found.hook, found.model) == ("blocks.20.hook_resid_pre", "gemma-2-2b-it")
    assert "dinosaurs" in found.told[0].values()


def test_several_of_neuronpedia(tmp_path: Path) -> None:
    other = feature(vector=ROWS[1].tolist(), hookName="blocks.3.hook_resid_pre", vectorLabel="birds")
    (tmp_path / "v.json").write_text(json.dumps({"vectors": [feature(), other]}), encoding="utf-8")
    both = read_vectors(tmp_path / "v.json")
    np.testing.assert_array_equal(both.values, ROWS[:2])
    assert both.hook is None
    one = read_vectors(f"{tmp_path}/v.json[1]")
    assert (one.hook, one.told[0]["vectorLabel"]) == ("blocks.3.hook_resid_pre", "birds")
    (tmp_path / "v.json").write_text(json.dumps([feature(), feature(vector=[1.0])]), encoding="utf-8")
    with pytest.raises(InputError, match="differ in length: take one"):
        read_vectors(tmp_path / "v.json")


def test_arrays_in_json_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text(json.dumps({"a": ROWS[0].tolist(), "b": ROWS.tolist(), "note": "x"}), encoding="utf-8")
    np.testing.assert_array_equal(read_vectors(f"{tmp_path}/v.json:b[1]").values, ROWS[[1]])
    with pytest.raises(InputError, match=r"several arrays \(a, b\)"):
        read_vectors(tmp_path / "v.json")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (feature(vector=[], hasVector=False), "holds no vector of its own"),
        ({"note": 1}, "holds no array"),
        ([[1, 2], [3]], "different lengths"),
        ([1, "x"], "text in place of numbers"),
        ([1, None], "null in place of numbers"),
        ([float("nan"), 1.0], "NaN"),
        ([1e300], "beyond float32"),
        ([], "holds no number"),
        (3, r"of the shape \[\]"),
        ([0, 0.0], "zero in all 2 numbers"),
        ([[1, 1], [0, 0]], "Row 1 of .* zero"),
        ([10**30], "beyond 64 bits"),
        ([True, False], "bool, not real numbers|in place of numbers"),
    ],
)
def test_json_that_is_no_vector(tmp_path: Path, value: Any, said: str) -> None:
    (tmp_path / "v.json").write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(InputError, match=said) as error:
        read_vectors(tmp_path / "v.json")
    assert "\n" not in str(error.value)


class Harm:
    """What a pickle could run."""

    def __reduce__(self) -> Any:
        return (open, (str(Harm.path), "w"))

    path: Path


def test_no_pickle_is_run(tmp_path: Path) -> None:
    Harm.path = tmp_path / "harmed"
    objects = np.array([Harm()], dtype=object)
    np.save(tmp_path / "v.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "v.npz", v=objects)
    torch.save(Harm(), tmp_path / "v.pt")
    for name, said in (("v.npy", "pickled Python objects"), ("v.npz", "pickled Python objects"), ("v.pt", "is a pickle")):
        with pytest.raises(InputError, match=said):
            read_vectors(tmp_path / name)
    assert not Harm.path.exists()


@pytest.mark.parametrize("form", [*FORMS, ".gguf"])
def test_files_cut_short_empty_or_of_another_form(tmp_path: Path, form: str) -> None:
    path = tmp_path / f"v{form}"
    write_control(path, {1: ROWS[0]}) if form == ".gguf" else FORMS[form](path, ROWS)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:9], b"no such file at all", bytes(reversed(whole))):
        path.write_bytes(content)
        with pytest.raises(InputError, match="cannot be read as") as error:
            read_vectors(path)
        assert "\n" not in str(error.value)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        read_vectors(path)


def test_an_array_that_is_stated_larger_than_it_is(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**6, 10**6)})
    (tmp_path / "v.npy").write_bytes(header.getvalue() + bytes(64))
    with zipfile.ZipFile(tmp_path / "v.npz", "w") as archive:
        archive.writestr("v.npy", header.getvalue() + bytes(64))
    for name in ("v.npy", "v.npz"):
        with pytest.raises(InputError, match="cannot be read as"):
            read_vectors(tmp_path / name)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(tmp_path: Path, bad: float) -> None:
    rows = ROWS.copy()
    rows[2, 1] = bad
    save_file({"w": rows}, tmp_path / "v.safetensors")
    with pytest.raises(InputError, match=r"Row 2 of .* holds NaN, infinite"):
        read_vectors(tmp_path / "v.safetensors")
    np.testing.assert_array_equal(read_vectors(f"{tmp_path}/v.safetensors:w[1]").values, ROWS[[1]])


def test_numbers_that_are_not_real(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", ROWS.astype(np.complex64))
    np.savez(tmp_path / "v.npz", v=ROWS > 0)
    save_tensors({"w": torch.tensor([True, False])}, tmp_path / "v.safetensors")
    for name in ("v.npy", "v.npz", "v.safetensors"):
        with pytest.raises(InputError, match="not real numbers"):
            read_vectors(tmp_path / name)


def test_gguf_files_of_other_things(tmp_path: Path) -> None:
    path = tmp_path / "v.gguf"
    write_control(path, {1: ROWS[0], 12: ROWS[1]})
    with pytest.raises(InputError, match=r"several layers \(1, 12\)"):
        read_vectors(path)
    with pytest.raises(InputError, match="has no layer '2', only 1, 12"):
        read_vectors(f"{path}:2")
    with pytest.raises(InputError, match="no rows"):
        read_vectors(f"{path}:1[0]")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", ROWS)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(InputError, match="holds no control vectors"):
        read_vectors(path)


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "a:b[1].npy[0]"
    odd.mkdir()
    np.save(odd / "v.npy", ROWS)
    np.testing.assert_array_equal(read_vectors(f"{odd}/v.npy[1]").values, ROWS[[1]])
    (odd / "w[0].npy").write_bytes((odd / "v.npy").read_bytes())
    assert len(read_vectors(f"{odd}/w[0].npy")) == 4
    assert parsed("probe.safetensors:w[3]") == (Path("probe.safetensors"), "w", 3)
    assert parsed("dirs.npy[0]") == (Path("dirs.npy"), None, 0)
    assert parsed("control.GGUF:12") == (Path("control.GGUF"), "12", None)
    monkeypatch.setenv("HOME", str(odd))
    assert read_vectors("~/v.npy").width == 6
    for spec, said in (("nowhere.npy:w[0]", "nowhere.npy is not there"), (str(odd), "is a folder"), ("v", "v is not there")):
        with pytest.raises(InputError, match=said):
            read_vectors(spec)
    (tmp_path / "v.txt").write_text("1 2 3", encoding="utf-8")
    with pytest.raises(InputError, match="of no form with vectors that is known"):
        read_vectors(tmp_path / "v.txt")
    with pytest.raises(InputError, match="one array and no names: leave out :w"):
        read_vectors(f"{odd}/v.npy:w")


@quick
@given(rows=st.tuples(st.integers(1, 5), st.integers(5, 8)).flatmap(lambda s: arrays(np.float64, s, elements=st.floats(-1, 1))))
def test_an_orthonormal_basis(rows: np.ndarray) -> None:
    """It is orthonormal, its first j rows span what the first j rows of the other did, and each turns the way of its own."""
    rows = (rows + 3 * np.eye(*rows.shape)).astype(np.float32)
    assume(np.linalg.svd(rows, compute_uv=False)[-1] > 0.1)
    basis = orthonormal(rows)
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(rows)), atol=1e-6)
    for j in range(1, len(rows) + 1):
        np.testing.assert_allclose(rows[:j] @ basis[:j].T @ basis[:j], rows[:j], atol=1e-5)
        assert rows[j - 1] @ basis[j - 1] > 0


@pytest.mark.parametrize(
    ("rows", "row"),
    [
        (np.stack([ROWS[0], ROWS[1], ROWS[0] - 2 * ROWS[1]]), 2),
        (np.eye(3)[[0, 1, 2, 1]], 3),
        (np.stack([ROWS[0], -7 * ROWS[0]]), 1),
    ],
)
def test_rows_that_depend_on_others(rows: np.ndarray, row: int) -> None:
    with pytest.raises(InputError, match=f"Row {row} lies in the span"):
        orthonormal(rows.astype(np.float32))


def test_several_columns_of_lists(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array(ROWS.tolist()), "b": pa.array(ROWS.tolist())}), tmp_path / "v.parquet")
    with pytest.raises(InputError, match=r"several columns of lists \(a, b\): name one, as in .*v.parquet:a"):
        read_vectors(tmp_path / "v.parquet")
