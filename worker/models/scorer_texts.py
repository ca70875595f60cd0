"""Texts become numbers of tokens, as a scorer's text tower learned to read them.

Knows tokenizers, in files and CLIP's own, and how SigLIP's texts were cleaned. Knows no network.
"""

from __future__ import annotations

import gzip
import re
import string
import threading
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import torch
import transformers
from transformers.convert_slow_tokenizer import bytes_to_unicode

from worker.models.errors import ModelError
from worker.models.folder import read_json
from worker.models.scorer_folder import ScorerFolder

MERGES = "clip_merges.txt.gz"
"""Beside this file: what all models with CLIP's vocabulary have, for folders that leave it out, as open_clip's may."""

CLIP_VOCABULARY = 49408


class TextReader:
    """Reads texts of `length` tokens at most, with those that mark start and end. For any thread: a tokenizer's padding
    is state that all its callers share."""

    def __init__(self, tokenizer: Any, length: int, clean: Callable[[str], str] = str) -> None:
        self.tokenizer, self.length = tokenizer, length
        self._clean = clean
        self._lock = threading.Lock()

    def ids(self, texts: Sequence[str]) -> torch.Tensor:
        """int64 [B, length]. What is longer is cut."""
        with self._lock:
            read = self.tokenizer(
                [self._clean(text) for text in texts],
                padding="max_length", truncation=True, max_length=self.length, return_tensors="pt",
            )  # fmt: skip
        ids: torch.Tensor = read.input_ids
        return ids

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, also those that are not read."""
        with self._lock:
            return [
                len(ids) for ids in self.tokenizer([self._clean(text) for text in texts], truncation=False).input_ids
            ]


def reader_of(folder: ScorerFolder, *, length: int, vocabulary: int) -> TextReader:
    """For a text tower of so many positions and numbers of tokens. Raises ModelError, and what transformers raises."""
    tokenizer, clean = _tokenizer(folder, vocabulary)
    if len(tokenizer) > vocabulary:
        raise ModelError(
            f"The tokenizer in {folder.path} has {len(tokenizer)} tokens, the text tower only {vocabulary}; "
            "fetch both from the same model."
        )
    return TextReader(tokenizer, length, clean)


def _tokenizer(folder: ScorerFolder, vocabulary: int) -> tuple[Any, Callable[[str], str]]:
    if folder.family == "SiglipModel":
        # Its own class wants the library sentencepiece for the same tokens.
        return transformers.PreTrainedTokenizerFast.from_pretrained(folder.path, local_files_only=True), _cleaning(
            folder
        )
    if folder.has_tokenizer:
        return transformers.CLIPTokenizer.from_pretrained(folder.path, local_files_only=True), str
    if vocabulary != CLIP_VOCABULARY:
        raise ModelError(
            f"{folder.path} has no tokenizer, and its vocabulary is not CLIP's; fetch tokenizer.json with it."
        )
    return clip_tokenizer(), str


def clip_tokenizer() -> Any:
    """The tokenizer of OpenAI's CLIP, and of all that have its vocabulary."""
    file = resources.files("worker.models").joinpath(MERGES)
    # Behind the licence, and an empty line.
    merges = gzip.decompress(file.read_bytes()).decode().partition("\n\n")[2].splitlines()
    letters = list(bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {word: number for number, word in enumerate(words)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[tuple(merge.split()) for merge in merges])


def _cleaning(folder: ScorerFolder) -> Callable[[str], str]:
    """SigLIP read its texts in small letters and without punctuation (`canonicalize_text` of big_vision), SigLIP 2 in
    small letters, whatever the tokenizer's file says of that."""
    named = read_json(folder.path / "tokenizer_config.json").get("tokenizer_class", "SiglipTokenizer")
    return canonical if str(named).startswith("SiglipTokenizer") else str.lower


def canonical(text: str) -> str:
    bare = text.lower().translate(str.maketrans("", "", string.punctuation))
    return re.sub(r"\s+", " ", bare).strip()
