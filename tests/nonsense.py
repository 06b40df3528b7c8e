"""Every option of every command at values that mean nothing, from the command line's own description; run as a program.

A command that is added needs a line in ``BASE``; its options are then covered. What a command would do for long ends at once:
trainings take no step, walks two, and nothing is served. All else is real: settings, memory, files, the models' answers.
Prints one line of JSON a case.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shlex
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import inversionview as iv

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is first imported
ENCODINGS = ["ascii", "cp1252", "utf-8"]
"""Of the output; the small tasks themselves write ASCII."""
SEEDS = [str(2**63 - 1), "-1", str(2**64), "nan", "x", ""]
NUMBERS = ["nan", "inf", "0", "-1", "1000000000", str(2**64), "x", ""]
WORDS = ["x", "-1", "", ","]
PATHS = ["-1", ""]
EVERYTHING = [*dict.fromkeys([*NUMBERS, *WORDS, "-inf", "1e9", "1e300", str(2**63 - 1), "1,nan"])]
ADD, COUNT = "615+861=1476", "vvzccvczvvvzvcvc|v:8"
BASE = {
    "read": f"addition {ADD} --at = --site a0.0 --temperature 1 --candidates 2 --count 2",
    "walk": f"addition {ADD} --at = --site a0.0 --steps 2 --chains 2 --no-exchange --count 2",
    "search": f"addition {ADD} --at = --site a0.0 --count 2 --k 2",
    "sites": "addition",
    "path": "addition model",
    "demo": "",
    "train": "addition --steps 1 --batch 8 --out RUN",
    "train-probed": "addition --inputs 512 --out RUN",
    "bank": "addition --inputs 20 --sites a0.0 --positions = --out RUN",
    "evaluate": "addition --queries 1 --samples 1",
    "recover": f"addition --text {ADD} --site x0.post",
    "inform": "addition --queries 1 --sites a0.0 --positions =",
    "truth": "addition --queries 1 --samples 2",
    "bits": "addition --queries 1 --sites a0.0 --positions = --epsilons 0.1",
    "complete": f"addition {ADD} --at = --site a0.0 --draws 1 --inputs 20 --quick",
    "threshold": f"addition {ADD} --at = --site a0.0 --inputs 20",
    "calibrate": "--model LLAMA --texts TEXTS --sites a1.0 --queries 2 --partners 3 --occurrences 60",
    "latents": f"addition {ADD} --at = --site x0.post|sae:addition --count 2",
    "agree": f"addition {ADD} --at = --site a0.0 --sources corpus",
    "patch": "addition --limit 2 --at =:a0.0",
    "ablate": "addition --limit 2 --at =:a0.0",
    "flow": "addition --target A1 --queries 2 --limit 2",
    "dla": f"addition {ADD} --at = --site a0.0",
    "heads": "ioi --model LLAMA --anyway --prompts 2 --again",
    "recall": "facts --model GPT2 --facts FACTS --queries 2 --heads 1 --least 0",
    "interpret": f"addition {ADD} --site a0.0 --at = --no-llm",
    "judge": "STATEMENTS --study addition",
    "explore": "--no-browser",
    "export": f"addition {ADD} --at = --site a0.0 --count 2 --out PAGE",
}
"""A small task for each command."""
INSTEAD = {
    ("read", "--seconds"): f"addition {ADD} --at = --site a0.0 --source walk --seconds 1 --count 2",
    ("walk", "--chains"): f"addition {ADD} --at = --site a0.0 --steps 2 --count 2",
    ("walk", "--bits-within"): f"addition {ADD} --at = --site a0.0 --steps 2 --count 2",
    ("walk", "--beta"): "--model LLAMA John --prior model --steps 2 --chains 2 --count 2",
    ("walk", "--keep"): "--model LLAMA John --prior model --steps 2 --chains 2 --count 2",
    ("walk", "--longer"): "--model LLAMA John --prior model --steps 2 --chains 2 --count 2",
    ("train", "--minutes"): "addition --batch 8 --out RUN",
    ("train", "--inputs"): "--model LLAMA --texts TEXTS --steps 1 --batch 8 --sites a1.0 --out RUN",
    ("train", "--bank"): "--model LLAMA --texts TEXTS --steps 1 --batch 8 --sites a1.0 --out RUN",
    ("train", "--max-length"): "--model LLAMA --texts TEXTS --steps 1 --batch 8 --sites a1.0 --out RUN",
    ("train", "--texts"): "--model LLAMA --texts TEXTS --steps 1 --batch 8 --sites a1.0 --out RUN",
    ("train", "--lora"): "--model LLAMA --texts TEXTS --steps 1 --batch 8 --sites a1.0 --decoder-from LLAMA --out RUN",
    ("train", "--decoder-from"): "--model LLAMA --texts TEXTS --steps 1 --batch 8 --sites a1.0 --frozen --out RUN",
    ("train", "--facts"): "facts --model LLAMA --steps 1 --batch 8 --sites a1.0 --out RUN",
    ("train", "--names"): "ioi --model LLAMA --steps 1 --batch 8 --sites a1.0 --out RUN",
    ("complete", "--queries"): "addition --at = --site a0.0 --draws 1 --inputs 20 --quick --queries 1",
    ("agree", "--seconds"): f"addition {ADD} --at = --site a0.0 --sources walk --seconds 1",
    ("agree", "--bank"): f"addition {ADD} --at = --site a0.0 --sources corpus",
    ("calibrate", "--tokens"): "--model LLAMA --texts TEXTS --sites a1.0 --queries 2 --partners 3",
    ("inform", "--tokens"): "--model LLAMA --texts TEXTS --queries 2 --sites a1.0",
    ("inform", "--context"): "--model LLAMA --texts TEXTS --queries 2 --sites a1.0",
    ("inform", "--texts"): "--model LLAMA --queries 2 --sites a1.0",
    ("inform", "--field"): "--model LLAMA --texts TEXTS --queries 2 --sites a1.0",
    ("inform", "--per"): "--model LLAMA --texts TEXTS --queries 2 --sites a1.0",
    ("patch", "--position"): "addition --limit 2",
    ("patch", "--pairs"): "addition --at =:a0.0",
    ("dla", "--target"): "addition --target A1 --site a0.0 --inputs 4",
    ("dla", "--inputs"): "addition --target A1 --site a0.0 --inputs 4",
    ("dla", "--seed"): "addition --target A1 --site a0.0 --inputs 4",
    ("dla", "--prompts"): "addition --site a0.0",
    ("dla", "--among"): "addition --site a0.0 --prompts PROMPTS",
    ("interpret", "--queries"): "addition --site a0.0 --at = --no-llm --queries 2",
    ("recover", "--states"): "addition --site x0.post",
    ("recover", "--vector"): "addition --site x0.post",
    ("recover", "--seconds"): "addition --site x0.post --vector VECTOR",
    ("recover", "--count"): "addition --site x0.post --vector VECTOR --seconds 1",
    ("recover", "--longest"): "addition --site x0.post --vector VECTOR --seconds 1",
    ("recover", "--tokens"): "--model LLAMA --texts TEXTS --text John --site x0.post",
    ("recover", "--context"): "--model LLAMA --texts TEXTS --text John --site x0.post",
    ("recover", "--texts"): "--model LLAMA --text John --site x0.post",
    ("recover", "--field"): "--model LLAMA --texts TEXTS --text John --site x0.post",
    ("recover", "--per"): "--model LLAMA --texts TEXTS --text John --site x0.post",
    ("judge", "--model"): "SAYINGS --texts TEXTS",
    ("judge", "--tokens"): "SAYINGS --model LLAMA --texts TEXTS",
    ("judge", "--context"): "SAYINGS --model LLAMA --texts TEXTS",
    ("judge", "--texts"): "SAYINGS --model LLAMA",
    ("judge", "--field"): "SAYINGS --model LLAMA --texts TEXTS",
    ("judge", "--per"): "SAYINGS --model LLAMA --texts TEXTS",
    ("search", "--tokens"): "--model LLAMA --texts TEXTS John --site a1.0 --count 2",
    ("search", "--context"): "--model LLAMA --texts TEXTS John --site a1.0 --count 2",
    ("search", "--per-window"): "--model LLAMA --texts TEXTS John --site a1.0 --count 2",
    ("latents", "--tokens"): "--model LLAMA --texts TEXTS John --site LATENTS --count 2",
    ("latents", "--context"): "--model LLAMA --texts TEXTS John --site LATENTS --count 2",
    ("sites", "--tokens"): "--model LLAMA --texts TEXTS --norms",
    ("sites", "--context"): "--model LLAMA --texts TEXTS --norms",
    ("threshold", "--tokens"): "--model LLAMA --texts TEXTS John --site a1.0",
    ("threshold", "--context"): "--model LLAMA --texts TEXTS John --site a1.0",
    ("bank", "--tokens"): "--model LLAMA --texts TEXTS --sites a1.0 --out RUN",
    ("bank", "--context"): "--model LLAMA --texts TEXTS --sites a1.0 --tokens 20 --out RUN",
    ("read", "--tokens"): "--model LLAMA --texts TEXTS John --site a1.0 --source corpus --count 2",
    ("read", "--context"): "--model LLAMA --texts TEXTS John --site a1.0 --source corpus --count 2",
    ("explore", "--tokens"): "--model LLAMA --texts TEXTS --no-browser",
    ("explore", "--context"): "--model LLAMA --texts TEXTS --no-browser",
    ("export", "--tokens"): "--model LLAMA --texts TEXTS John --site a1.0 --source corpus --count 2 --out PAGE",
    ("export", "--context"): "--model LLAMA --texts TEXTS John --site a1.0 --source corpus --count 2 --out PAGE",
    ("read", "--within"): "--model LLAMA --texts TEXTS John --site n1.0 --source corpus --count 2",
    ("walk", "--within"): f"addition {ADD} --at = --site n0.5 --steps 2 --chains 2 --no-exchange --count 2",
    ("search", "--within"): "--model LLAMA --texts TEXTS John --site n1.0 --count 2",
    ("export", "--within"): "--model LLAMA --texts TEXTS John --site n1.0 --source corpus --count 2 --out PAGE",
    ("export", "--seconds"): f"addition {ADD} --at = --site a0.0 --source walk --seconds 1 --count 2 --out PAGE",
} | {
    ("interpret", option): f"addition {ADD} --site a0.0 --at = --llm nobody --base-url http://127.0.0.1:9/v1 --estimate"
    + {"--price-in": " --price-out 1", "--price-out": " --price-in 1"}.get(option, "")
    for option in ("--llm", "--base-url", "--concurrency", "--budget", "--price-in", "--price-out", "--timeout", "--cache")
} | {
    ("judge", option): "STATEMENTS --study addition --by nobody --base-url http://127.0.0.1:9/v1 --estimate"
    + {"--price-in": " --price-out 1", "--price-out": " --price-in 1"}.get(option, "")
    for option in ("--base-url", "--concurrency", "--budget", "--price-in", "--price-out", "--timeout", "--cache")
} | {
    (command, "--index"): task.replace("--at = ", "") for command, task in BASE.items()
}  # fmt: skip
"""Where an option goes with others than the command's small task."""


class Case(NamedTuple):
    """A command line."""

    command: str
    option: str
    """Or argument; empty: the small task itself."""
    value: str
    words: list[str]


SOUND = {
    ("train", "--batch"): "8", ("train", "--width"): "16", ("train", "--max-length"): "32", ("interpret", "--budget"): "100000",
    ("judge", "--budget"): "100000",
    ("train-probed", "--inputs"): "1024",
    ("inform", "--tokens"): "60", ("judge", "--tokens"): "60",
    ("calibrate", "--tokens"): "60", ("calibrate", "--occurrences"): "60",
    ("calibrate", "--partners"): "3",
    ("bank", "--rank"): "0", ("recall", "--least"): "0.0", ("explore", "--port"): "0", ("flow", "--threshold"): "0.2",
    ("flow", "--effect"): "0.2", ("flow", "--attention"): "0.2", ("export", "--seconds"): "0.1", ("agree", "--seconds"): "0.1",
    ("recover", "--noise"): "0.1",
}  # fmt: skip
"""A number that each option takes, where that is not 2."""


def commands() -> dict[str, Any]:
    """Return every command by its name; from now on they are not built again."""
    import typer

    from inversionview import cli

    typer.main.get_command = cache(typer.main.get_command)
    return dict(typer.main.get_command(cli.app).commands)


def cases(everything: bool) -> Iterator[Case]:
    """Yield all cases; without ``everything`` options that are no numbers get fewer values."""
    for command, described in commands().items():
        if not described.params:
            continue
        yield Case(command, "", "", [command, *shlex.split(BASE[command])])
        place = -1
        for parameter in described.params:
            argument = parameter.param_type_name == "argument"
            name = parameter.name if argument else parameter.opts[0]
            place += argument
            if not argument and parameter.is_flag:
                continue
            base = shlex.split(INSTEAD.get((command, name), BASE[command]))
            for value in values(command, parameter, everything):
                task = at_place(base, place, value) if argument else given(base, parameter, value)
                yield Case(command, name, value, [command, *task])


def values(command: str, parameter: Any, everything: bool) -> list[str]:
    """Return what an option is given, of numbers first one that is sound."""
    kind = parameter.type_descriptor.annotation
    sound = [SOUND.get((command, parameter.opts[0]), "2")] if kind in (int, float, list[int], list[float]) else []
    if everything:
        return [*dict.fromkeys([*sound, *EVERYTHING])]
    if parameter.name == "seed":
        return SEEDS
    return [*sound, *NUMBERS] if sound else PATHS if kind in (Path, list[Path]) else WORDS


def at_place(base: list[str], place: int, value: str) -> list[str]:
    """Return the task with another argument at its place."""
    first = next((i for i, word in enumerate(base) if word.startswith("--")), len(base))
    arguments = base[:first] if len(base[:first]) > place else [*base[:first], *["x"] * (place - first + 1)]
    arguments[place] = value
    return [*base[first:], "--", *arguments]


def given(base: list[str], parameter: Any, value: str) -> list[str]:
    """Return the task with an option of another value."""
    kept, skip = [], False
    for word, following in zip(base, [*base[1:], ""], strict=True):
        if skip:
            skip = False
        elif word in (*parameter.opts, *parameter.secondary_opts):
            skip = not following.startswith("--")
        else:
            kept.append(word)
    return [*kept, parameter.opts[0], value]


class TooLong(BaseException):
    """A case did not end."""


def prepared(folder: Path) -> dict[str, str]:
    """Make what tasks read, cut short what takes long, and return what the words in capitals mean."""
    import numpy as np
    from safetensors import safe_open
    from safetensors.numpy import save_file

    from inversionview.analyses.complete import measure as completeness
    from inversionview.analyses.heads import measure as heads
    from inversionview.analyses.threshold import measure as threshold
    from inversionview.corpora.inputs import Inputs
    from inversionview.decoder import training
    from inversionview.explorer import command as exploring
    from inversionview.markov.run import Walk
    from inversionview.runs import train as runs
    from inversionview.runs import train_probed as probing
    from inversionview.studies import load as loading
    from inversionview.studies.facts.corpus import FactsInputs
    from inversionview.studies.ioi.corpus import NAMES
    from tests.language import deep_llama

    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    llama = str(deep_llama(folder / "llama", layers=2))
    people = [f"{first} {last}" for first in NAMES.split()[:25] for last in ("Jones", "Smith")]
    facts = [
        {"prompt": "{} gave a", "subject": name, "relation": "gift", "object": ("ring", "drink")[i % 2]}
        for i, name in enumerate(people)
    ]
    (folder / "facts.jsonl").write_text("\n".join(map(json.dumps, facts)))
    (folder / "texts.txt").write_text("\n".join(f"John gave Mary {i} rings" for i in range(60)))
    (folder / "prompts.jsonl").write_text('{"text": "615+861=", "expected": "1"}\n')
    with safe_open(folder / "llama" / "model.safetensors", "np") as file:
        width = file.get_slice("model.norm.weight").get_shape()[0]
    sparse = np.random.default_rng(0).normal(size=(24, width)).astype(np.float32)
    (folder / "sae").mkdir()
    save_file({"W_enc": sparse.T.copy(), "b_enc": sparse[:, 0].copy(), "W_dec": sparse, "b_dec": sparse[0]},
              folder / "sae" / "sae_weights.safetensors")  # fmt: skip
    (folder / "sae" / "cfg.json").write_text(json.dumps({"architecture": "standard", "d_in": width, "d_sae": 24}))
    np.save(folder / "vector.npy", np.ones(32, dtype=np.float32))
    place = {"text": "John gave Mary", "at": "#2", "site": "a1.0"}
    (folder / "sayings.jsonl").write_text(json.dumps({**place, "statement": "re:John"}))
    remembered = cache(loading.load)

    def load(name: Any = None, **options: Any) -> Any:
        loaded = remembered(name, **options)
        if not loaded.bare and loaded.banks.own is None and loaded.spec.inputs == "addition":
            loaded.banks.own = iv.build_bank(loaded, folder / "bank", rows=100)
            loaded.sites = loaded.sites[:2]
        if not loaded.bare and isinstance(loaded.inputs, FactsInputs) and loaded.inputs.known is None:
            loaded.inputs.known = np.ones(loaded.inputs.facts, dtype=bool)
        return loaded

    loading.load = runs.load = load
    exploring.serve = lambda *_: None
    probing.train_probed = lambda *_, **__: {"accuracy": 0.0, "minutes": 0.0}
    few = completeness.chosen_rows
    completeness.chosen_rows = threshold.chosen_rows = lambda *asked: few(*asked)[:20]
    split = Inputs.split
    Inputs.split = lambda self, name: split(self, name)[:50]
    heads.CANDIDATES, heads.PAIRS = dict.fromkeys(heads.CANDIDATES, 1), 2
    training.Clock.tick = lambda self: 1.0
    training.fit_whitening = lambda *_: None
    Walk._over = lambda self: self.chains is not None and self.chains.steps >= 2
    return {"LLAMA": llama, "GPT2": llama, "FACTS": str(folder / "facts.jsonl"), "TEXTS": str(folder / "texts.txt"),
            "PROMPTS": str(folder / "prompts.jsonl"), "LATENTS": f"x1.post|sae:{folder / 'sae'}",
            "VECTOR": str(folder / "vector.npy"), "SAYINGS": str(folder / "sayings.jsonl"),
            "STATEMENTS": str(Path(__file__).parent / "statements.jsonl")}  # fmt: skip


def run(argv: list[str], seconds: int, encoding: str) -> dict[str, Any]:
    """Run a command in this process, its output of an encoding; return its exit code, output, errors and seconds."""

    from inversionview import cli

    stdout, stderr = (io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2))
    code = 0

    def ring(*_: Any) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    began = time.perf_counter()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            cli.main(argv)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException:
            code = -1
            stderr.write(traceback.format_exc())
        finally:
            signal.alarm(0)
    said = [stream.buffer.getvalue().decode(encoding) for stream in (stdout, stderr)]  # type: ignore[attr-defined]
    return {
        "code": code,
        "out": said[0][-300:],
        "err": said[1][-1500:],
        "seconds": round(time.perf_counter() - began, 3),
    }


def main(seconds: int = 120) -> None:
    """Run all cases, those of some commands, with ``--all`` all values."""
    only, everything = [word for word in sys.argv[1:] if word != "--all"], "--all" in sys.argv
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        means = {**prepared(folder), "RUN": "run", "PAGE": "page.html"}
        resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
        for i, case in enumerate(cases(everything)):
            if only and case.command not in only:
                continue
            here = folder / str(i)
            here.mkdir()
            os.chdir(here)
            encoding = ENCODINGS[bool(case.option) and i % len(ENCODINGS)]
            done = run([means.get(word, word) for word in case.words], seconds, encoding)
            print(json.dumps({"command": case.command, "option": case.option, "value": case.value, **done}), flush=True)
            os.chdir(folder)
            shutil.rmtree(here)


if __name__ == "__main__":
    main()
