"""All heads' inputs of W_O as one site, and dictionaries of hook_z that are read through it or through one head's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import inversionview as iv
from inversionview.core.errors import BankError, SettingError, UnknownSiteError
from inversionview.core.integrity import KEY, sealed
from inversionview.model.backend import Backend, Patch, Shape
from inversionview.model.sites.patterns import expand, find_site
from inversionview.model.sites.site import Site
from tests.test_cli import run as command
from tests.test_kinds import assert_near, everywhere, inputs, own_patched, own_value, place, plain
from tests.test_through import codes, dictionary
from tests.test_through import run as run  # a fixture


def of_heads(folder: Path, width: int, head: int | None = None) -> dict[str, torch.Tensor]:
    """Write a dictionary that says it is of blocks.1.attn.hook_z, of all heads or of one, as SAELens does."""
    tensors = dictionary(folder, width)
    told = json.loads((folder / "cfg.json").read_text())
    more = {"hook_name": "blocks.1.attn.hook_z", "hook_head_index": head, "reshape_activations": "none" if head else "hook_z"}
    (folder / "cfg.json").write_text(json.dumps({**told, **more}))
    return tensors


@pytest.mark.parametrize("head", [None, 2])
def test_a_dictionary_of_hook_z_is_read_where_it_says(run: tuple[str, Backend], tmp_path: Path, head: int | None) -> None:
    """By the formula, of a plain run's input of W_O; a latent is written along its decoder's row."""
    name, made = run
    base = Site.parse("z1" if head is None else f"z1.{head}")
    where, tokens = place(name, base), inputs(1)
    x = own_value(plain(name), tokens, where)
    t = of_heads(tmp_path / "sae", x.size(-1), head)
    wanted = codes(x, t)
    every = find_site(f"{base}|sae:{tmp_path / 'sae'}", made.shape.sites)
    assert_near(made.activations(tokens, None, [every], everywhere(tokens))[0], wanted)
    latent = int(wanted.sum((0, 1)).argmax())
    one = find_site(f"{base}|sae:{tmp_path / 'sae'}#{latent}", made.shape.sites)
    changed = x[:, 4] + (2.5 - wanted[:, 4, [latent]]) * t["W_dec"][latent]
    found = made.logits(tokens, None, {one: Patch(torch.full((3, 1), 4), torch.full((3, 1, 1), 2.5))})
    assert_near(found, own_patched(plain(name), tokens, where, 4, changed))
    other = "z1.1" if head is not None else "z0"
    with pytest.raises(SettingError, match=r"belongs at blocks.1.attn.hook_z"):
        find_site(f"{other}|sae:{tmp_path / 'sae'}", made.shape.sites)


def test_a_bank_holds_all_heads_and_is_searched_as_by_brute_force(addition: iv.Study, tmp_path: Path) -> None:
    bank = iv.build_bank(addition, tmp_path / "bank", rows=2000, sites=["z0", "z0.1", "x0.post"], positions=["="])
    query = addition.query("615+861=1476", at="=", site="z0")
    tokens = bank.tokens(np.arange(2000))
    at = torch.from_numpy(addition.inputs.named_positions(tokens)["="])[:, None]
    z = addition.model.activations(torch.from_numpy(tokens), [query.site], at)[0, :, 0]
    d = (z - query.z).norm(dim=1) / query.z.norm()
    found = iv.search(addition, query, bank=bank, epsilon=0.3, k=0)
    wanted = {tuple(t for t in tokens[i].tolist() if t != addition.inputs.pad) for i in torch.nonzero(d <= 0.3)[:, 0].tolist()}
    assert {tuple(sample.ids) for sample in found.samples} == wanted - {tuple(query.ids)}
    assert len(addition.bank(tmp_path / "bank").sites) == 3
    path = tmp_path / "bank" / "manifest.json"
    kept = json.loads(path.read_text())
    kept.pop(KEY)
    path.write_text(json.dumps(sealed({**kept, "d_heads": 33})))
    with pytest.raises(BankError, match="d_heads"):
        addition.bank(tmp_path / "bank")


def test_layers_of_unlike_numbers_of_heads_have_no_such_site() -> None:
    known = Shape((4, 2), 32, 40, 64).sites
    for pattern in ("z0", "z*"):
        with pytest.raises(UnknownSiteError, match="unlike numbers of heads"):
            expand(pattern, known)
    assert find_site("z1.1", known)


def test_it_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "sites", "addition")
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith("z* "))
    assert line.split() == ["z*", "z1", "blocks.1.attn.hook_z", "32", "2"]
