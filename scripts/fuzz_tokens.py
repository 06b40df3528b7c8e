"""Send random texts through tokenizers of every kind: whatever comes, it is ids and labels or one sentence, never a traceback.

    python scripts/fuzz_tokens.py --inputs 100000

The tokenizers are those of the tests. Each text is encoded, labelled, decoded, cut and asked for as an answer; random ids are
decoded, too. Prints how many were encoded and refused; exits with 1 where anything else came, where a label is not printable,
or where a tokenizer that loses nothing of a text does not give it back.
"""

from __future__ import annotations

import argparse
import collections
import random
import sys
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from inversionview.core.errors import InputError
from inversionview.model.tokens import Vocabulary
from tests.vocabularies import GPT2, LLAMA, QWEN, QWEN_SPECIALS, byte_level, fast, legacy_llama, metaspace, words

PIECES = (
    "the", " cat", "sat ", "-", "猫", "ال", "🙂", "👩\u200d👩", "▁", "Ġ", "⟨e7⟩", "⏎", "\n", "\t", "\r", "\x00", "\x1b[2J",
    "\u202e", "\u2028", "\ufffd", "\ud83d", "<s>", "</s>", "<unk>", "<0xE7>", "<|endoftext|>", "<|im_end|>", "[UNK]",
    "e\u0301", "\u00a0", "\ufeff", " " * 7,
)  # fmt: skip


def written(rng: random.Random) -> str:
    """Return a random text: pieces that mean something to tokenizers, and characters of all planes."""
    parts = []
    for _ in range(rng.randint(0, 9)):
        highest = rng.choice((0x7F, 0x2FF, 0xFFFF, 0x10FFFF))
        parts.append(rng.choice(PIECES) if rng.random() < 0.6 else chr(rng.randint(0, highest)))
    return "".join(parts)


def tried(vocabulary: Vocabulary, text: str, exact: bool, rng: random.Random) -> str:
    """Return what became of a text."""
    vocabulary.single(text)
    vocabulary.decode([rng.randrange(vocabulary.size + 2) for _ in range(rng.randint(0, 8))])
    batch, *_ = vocabulary.encode_many([text])
    try:
        ids = vocabulary.encode(text)
    except InputError as error:
        assert isinstance(batch, InputError), "encode_many takes what encode refuses"
        return "refused" if "\n" not in str(error) else "badly said"
    assert batch == ids, "encode_many gives other ids"
    assert all(one.isprintable() and "\ufffd" not in one for one in vocabulary.strings(ids)), "a label is not printable"
    assert len(vocabulary.encode(text, truncate=len(vocabulary.front) + 2)) <= len(ids), "cut to more"
    given = vocabulary.decode(ids)
    framed = any(token in text for token in ("<|endoftext|>", "<|im_end|>"))
    assert not exact or framed or given == text, f"gives back {given!r}"
    return "encoded"


def main() -> None:
    """Make texts and try them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, counts = random.Random(options.seed), collections.Counter[str]()
    made = [fast(byte_level(), **GPT2), fast(byte_level(QWEN_SPECIALS), **QWEN), fast(legacy_llama(), **LLAMA)]
    made += [*(fast(metaspace(scheme), **LLAMA) for scheme in ("first", "always", "never")), fast(words())]
    vocabularies = [Vocabulary.from_transformers(tokenizer) for tokenizer in made]
    for number in range(options.inputs):
        which, text = number % len(vocabularies), written(rng)
        try:
            counts[tried(vocabularies[which], text, which < 2, rng)] += 1
        except Exception:
            counts["failed"] += 1
            print(f"tokenizer {which}: {text!r}\n{traceback.format_exc()}", file=sys.stderr)
    print(", ".join(f"{count:,} {kind}" for kind, count in sorted(counts.items())))
    sys.exit(int(counts["failed"] + counts["badly said"] > 0))


if __name__ == "__main__":
    main()
