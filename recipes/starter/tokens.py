"""A byte-level BPE vocabulary of the recipe's own, in CLIPTokenizer's layout.

Knows Radford's byte alphabet and what files CLIPTokenizer reads. The merges are counted on captions and on emoji
keywords, so common English words outside the captions cost few tokens; any other text falls to bytes and is legal.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from recipes.starter.captions import caption
from recipes.starter.plan import Wishes, draw_plan
from recipes.starter.sources import KEYWORDS, read_member

MERGES = 1400
POSITIONS = 32
"""Tokens a prompt may have, start and end included. The longest caption of the sampler has 27."""

START, END, WORD_END = "<|startoftext|>", "<|endoftext|>", "</w>"
PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""CLIP's own splitting."""


def sample_captions(count: int, *, seed: int = 0) -> list[str]:
    chance = random.Random(seed)
    return [caption(chance, draw_plan(chance, 128, 128, Wishes())) for _ in range(count)]


def keyword_lines(emojilib: str) -> list[str]:
    """One line per emoji of emojilib's JSON."""
    return [" ".join(words).replace("_", " ") for words in json.loads(emojilib).values()]


def train(texts: Iterable[str], *, merges: int = MERGES) -> Any:
    """A CLIPTokenizer whose merges were counted on `texts`."""
    from transformers import CLIPTokenizer

    pairs = count_merges(texts, merges)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = [*alphabet, *(letter + WORD_END for letter in alphabet), *(a + b for a, b in pairs), START, END]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=pairs,
        model_max_length=POSITIONS,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        unk_token=END,
    )


def count_merges(texts: Iterable[str], merges: int) -> list[tuple[str, str]]:
    """The most useful pairs, best first (Sennrich et al. 2016, arXiv 1508.07909)."""
    counter = Tokenizer(models.BPE(end_of_word_suffix=WORD_END))
    counter.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    counter.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PIECES), "removed", invert=True), pre_tokenizers.ByteLevel(False, False, False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=2 * 256 + merges,
        min_frequency=3,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix=WORD_END,
        show_progress=False,
    )
    counter.train_from_iterator(texts, trainer)
    found = json.loads(counter.to_str())["model"]["merges"]
    return [(first, second) for first, second in found][:merges]


def save(tokenizer: Any, folder: Path) -> None:
    """tokenizer.json as transformers 5 writes it, and vocab.json and merges.txt for older readers."""
    tokenizer.save_pretrained(folder)
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    lines = [" ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")


def load(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def main() -> None:
    """`python -m recipes.starter.tokens` counts the vocabulary and writes `tokenizer/`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/starter"))
    options = parser.parse_args()
    keywords = keyword_lines(read_member(KEYWORDS, options.work / "cache", "dist/emoji-en-US.json"))
    tokenizer = train([*sample_captions(20_000), *keywords, *keywords, *keywords])
    save(tokenizer, options.work / "tokenizer")
    print(f"{len(tokenizer)} tokens in {options.work / 'tokenizer'}")


if __name__ == "__main__":
    main()
