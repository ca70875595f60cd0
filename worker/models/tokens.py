"""The files of a tokenizer, judged by themselves: transformers makes a tokenizer of an empty folder, without a word.

Knows the two layouts, `tokenizer.json` and `vocab.json` with `merges.txt`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worker.models.errors import ModelError
from worker.models.folder import file_fault, read_json

WITHOUT_MERGES = 514
"""Tokens: each byte alone, at the end of a word, and the two that mark start and end. A larger vocabulary has parts of
words, and without merges none of them is ever found: the text encoder would read letters."""


def tokenizer_file_faults(path: Path) -> Iterator[str]:
    """One sentence about a tokenizer's folder that would read prompts otherwise than its model learned."""
    try:
        tokens, merges = _counts(path)
    except ModelError as error:
        yield from error.faults
        return
    if not merges and tokens > WITHOUT_MERGES:
        yield f"The tokenizer in {path} has no merges; fetch {path.name} again."


def _counts(path: Path) -> tuple[int, int]:
    """Tokens and merges."""
    if (path / "tokenizer.json").is_file():
        model = read_json(path / "tokenizer.json").get("model")
        tokens, merges = (_length(model.get(name)) if isinstance(model, dict) else 0 for name in ("vocab", "merges"))
        if not tokens:
            raise ModelError(f"{path / 'tokenizer.json'} has no vocabulary; fetch the file again.")
        return tokens, merges
    return len(read_json(path / "vocab.json")), _lines(path / "merges.txt")


def _lines(merges: Path) -> int:
    if fault := file_fault(merges):
        raise ModelError(fault)
    try:
        lines = merges.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ModelError(f"{merges} cannot be read ({error}); fetch the file again.") from error
    return sum(1 for line in lines if line.strip() and not line.startswith("#version"))


def _length(value: Any) -> int:
    return len(value) if isinstance(value, list | dict) else 0
