"""The folders that a worker can take up: found, judged, and what is known of each from the last time it was in memory.

A model's card needs the model itself, so it is kept with the profile, and so is how long loading takes. Knows folders
and what was remembered. Refuses to know when one is taken up, and what is in memory.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import diffusers
import structlog
import torch

from app import __version__
from app.contract.messages.card import ModelCard
from app.contract.messages.model_name import IllegalName, model_name
from worker.models.assembly import AssemblyError, whole_model
from worker.models.found import model_folders
from worker.models.judge import judge
from worker.models.place import Place, place_of
from worker.models.scorer_folder import is_scorer
from worker.remembered import Remembered
from worker.settings import WorkerSettings

log = structlog.get_logger()

LOOK_SECONDS = 10.0
"""Between two looks at what folders there are."""

RETRY_SECONDS, LONGEST_RETRY_SECONDS = 60.0, 1_800.0
"""After a folder could not be loaded; twice as long each further time. One that changes is tried at once."""

NEW_WEIGHS = 0.3
"""Of the newest load in the average of all. The first one is left out as soon as there is another: it measures the
model, which no later one does."""

Stamp = tuple[tuple[str, int, int], ...]
"""Names of all files in a folder, with their bytes and when they were written (ns)."""


@dataclass(frozen=True, slots=True)
class KnownFolder:
    """One that can be served, as far as is known. `card` and `load_seconds` are None until it has been in memory once;
    `loads` says how often. `retry_at` is when it may be tried again after `failures`."""

    name: str
    settings: WorkerSettings
    stamp: Stamp
    found_at: float
    card: ModelCard | None = None
    load_seconds: float | None = None
    loads: int = 0
    failures: int = 0
    retry_at: float = 0.0

    @property
    def path(self) -> Path:
        return self.settings.model


@dataclass(slots=True)
class ModelFolders:
    """Those that the settings name. `taken` are names that no folder may have. Times are seconds of `clock`."""

    settings: WorkerSettings
    taken: frozenset[str] = frozenset()
    clock: Callable[[], float] = time.monotonic
    _known: dict[str, KnownFolder] = field(default_factory=dict)
    _refused: dict[Path, tuple[Stamp, list[str]]] = field(default_factory=dict)
    _looked_at: float | None = None
    _place: Place | None = None

    def look(self) -> Mapping[str, KnownFolder]:
        """What there is, by name; looks again at most every LOOK_SECONDS. Raises ModelError for a device that is not
        there."""
        if self._looked_at is None or self.clock() - self._looked_at >= LOOK_SECONDS:
            self._looked_at = self.clock()
            try:
                self._look_again()
            except OSError as error:
                # Somebody changes them just now, or a share is away: what was known holds until the next look.
                log.warning("the folders cannot be looked at", reason=str(error))
        return self._known

    @property
    def faults(self) -> list[str]:
        """Of the folders that cannot be served."""
        return [fault for _, faults in self._refused.values() for fault in faults]

    def opened(self, folder: KnownFolder, card: ModelCard, seconds: float) -> None:
        """It is in memory, which took so long."""
        old = folder.load_seconds if folder.loads > 1 else None
        average = seconds if old is None else (1 - NEW_WEIGHS) * old + NEW_WEIGHS * seconds
        self._keep(replace(folder, card=card, load_seconds=average, loads=folder.loads + 1, failures=0))

    def failed(self, folder: KnownFolder) -> float:
        """It could not be loaded. Seconds until it may be tried again."""
        pause = min(RETRY_SECONDS * 2.0**folder.failures, LONGEST_RETRY_SECONDS)
        retry_at = self.clock() + pause
        self._known[folder.name] = replace(folder, failures=folder.failures + 1, retry_at=retry_at)
        return pause

    def more_is_known(self, card: ModelCard) -> None:
        """Of a model that is in memory, or was."""
        folder = self._known.get(card.name)
        if folder is not None:
            self._keep(replace(folder, card=card))

    def may_be_tried(self, folder: KnownFolder) -> bool:
        return self.clock() >= folder.retry_at

    def _look_again(self) -> None:
        found: dict[str, KnownFolder] = {}
        refused: dict[Path, tuple[Stamp, list[str]]] = {}
        for path in model_folders(self.settings.models):
            stamp = stamp_of(path)
            known = next((each for each in self._known.values() if each.path == path), None)
            if known is not None and known.stamp == stamp:
                found[known.name] = known
            elif path in self._refused and self._refused[path][0] == stamp:
                refused[path] = self._refused[path]
            elif faults := self._judge(path, stamp, found):
                refused[path] = stamp, faults
        for name in self._known.keys() - found.keys():
            log.info("a model's folder is gone", model=name, folder=str(self._known[name].path))
        self._known, self._refused = found, refused

    def _judge(self, path: Path, stamp: Stamp, found: dict[str, KnownFolder]) -> list[str]:
        """Why it cannot be served; found where it can."""
        try:
            name = model_name(path)
            faults = [*self._faults(path, name, found)]
        except (IllegalName, AssemblyError) as error:
            name, faults = path.name, [str(error)]
        if faults:
            log.error("a folder is not served", folder=str(path), faults=faults)
            return faults
        folder = KnownFolder(name, self.settings.model_copy(update={"model": path}), stamp, self.clock())
        found[name] = self._remembered(folder).recall(lambda kept: _read(folder, kept)) or folder
        log.info("a folder can be served", model=name, folder=str(path), is_known=found[name].card is not None)
        return []

    def _faults(self, path: Path, name: str, found: Mapping[str, KnownFolder]) -> Iterator[str]:
        """Why it cannot be served: by what can be told without its weights."""
        if is_scorer(path):
            yield f"{path} is a scorer: name it in DARKROOM_SCORER, or give it a worker of its own."
            return
        if name in self.taken or name in found:
            yield f"{path} has the name of another model, {name}: rename one of the folders."
            return
        settings, place = self.settings, self._resolved_place()
        yield from judge(
            whole_model(path),
            dtype=place.dtype_name,
            rooms=place.rooms(),
            controlnets=settings.kept_controlnets(),
            vae=settings.vae,
            prior=settings.prior,
            safety=settings.safety,
        ).faults

    def _resolved_place(self) -> Place:
        if self._place is None:
            self._place = place_of(self.settings.device, self.settings.dtype)
        return self._place

    def _keep(self, folder: KnownFolder) -> None:
        self._known[folder.name] = folder
        assert folder.card is not None
        content = {"card": folder.card.model_dump(mode="json"), "load_seconds": folder.load_seconds}
        self._remembered(folder).keep(content | {"loads": folder.loads})

    def _remembered(self, folder: KnownFolder) -> Remembered:
        return Remembered(self.settings.profile_folder, "served", self._circumstances(folder))

    def _circumstances(self, folder: KnownFolder) -> dict[str, Any]:
        """All that a card and a load depend on, as far as it is known without the model."""
        settings = self.settings
        names = ("vae", "prior", "controlnets", "loras", "embeddings", "scorer")
        beside = {name: path for name in names if (path := getattr(settings, name)) is not None}
        place = self._resolved_place()
        return {
            "folder": str(folder.path.absolute()),
            "files": _digest(folder.stamp),
            "beside": {name: (str(path.absolute()), _digest(stamp_of(path))) for name, path in beside.items()},
            "place": (str(place.device), place.dtype_name),
            "settings": settings.model_dump(mode="json", include={"seats", "safety", "controlnets_kept", "threads"}),
            "versions": (__version__, str(torch.__version__), diffusers.__version__),
        }


def stamp_of(folder: Path) -> Stamp:
    """Of a folder that may be anything, or missing; what cannot be looked at is left out."""
    found = []
    # Not rglob: it raises where a folder goes while it is walked.
    for path in sorted(Path(inside, name) for inside, _, names in os.walk(folder) for name in names):
        try:
            about = path.stat()
        except OSError:
            continue
        if stat.S_ISREG(about.st_mode):
            found.append((str(path.relative_to(folder)), about.st_size, about.st_mtime_ns))
    return tuple(found)


def _digest(stamp: Stamp) -> str:
    return hashlib.sha256(repr(stamp).encode()).hexdigest()


def _read(folder: KnownFolder, kept: Mapping[str, Any]) -> KnownFolder:
    """What was kept of it. Raises ValueError, KeyError or TypeError for what cannot be."""
    card, seconds, loads = ModelCard.model_validate(kept["card"]), float(kept["load_seconds"]), int(kept["loads"])
    if card.name != folder.name or not 0 <= seconds < float("inf") or loads < 1:
        raise ValueError("what was kept is of another model")
    return replace(folder, card=card, load_seconds=seconds, loads=loads)
