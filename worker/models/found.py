"""Which folders hold models: those that are named, or those inside of one that is named.

Knows names of files. Refuses to know whether a model is whole (judge.py), and imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog

from worker.models.assembly import ASSEMBLY, meant
from worker.models.scorer_folder import is_scorer

log = structlog.get_logger()


def is_model(path: Path) -> bool:
    """Does the folder hold a model, rather than folders of some?"""
    return any((path / name).is_file() for name in ("model_index.json", ASSEMBLY)) or is_scorer(path)


def model_folders(named: Iterable[Path]) -> Iterator[Path]:
    """In the order in which they are named, those inside of a folder by their names. One that is not there is among
    them: whoever judges it says so."""
    for path in map(meant, named):
        if is_model(path) or not path.is_dir():
            yield path
        else:
            yield from sorted(each for each in _entries(path) if is_model(each))


def _entries(path: Path) -> list[Path]:
    try:
        return [each for each in path.iterdir() if not each.name.startswith(".")]
    except OSError as error:
        log.warning("a folder of models cannot be read", folder=str(path), reason=error.strerror)
        return []
