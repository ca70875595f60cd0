"""Which schedulers work with a model, and in how many steps: tried at its first start, remembered for the next ones.

Trying them takes seconds of CPU. A verdict belongs to everything that it depends on; nothing else is believed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from app import __version__
from app.contract.messages import schedulers as table
from worker.models import schedulers
from worker.models.announced import step_limits_of
from worker.models.bundle import Bundle
from worker.models.schedulers import StepLimits
from worker.remembered import Remembered

LIBRARIES = ("diffusers", "torch", "numpy", "scipy")
"""What schedulers compute with. Without scipy some do not work."""


def tried_schedulers(bundle: Bundle, folder: Path | None) -> dict[str, StepLimits]:
    """What `step_limits` finds for the model, or found under the same circumstances. They are kept in `folder`, or in
    the user's cache."""
    most = bundle.defaults.max_steps
    remembered = Remembered(folder, "step_limits", _circumstances(bundle))
    limits = remembered.recall(lambda content: _believed(content, most))
    if limits is None:
        limits = step_limits_of(bundle)
        remembered.keep({name: asdict(limit) for name, limit in limits.items()})
    return limits


def _circumstances(bundle: Bundle) -> dict[str, Any]:
    config = {name: value for name, value in bundle.scheduler.config.items() if not name.startswith("_")}
    return {
        "scheduler": type(bundle.scheduler).__name__,
        "config": config,
        # What a configuration does not say, schedulers of other classes fill in as they like. diffusers lists a set.
        "unsaid": sorted(bundle.scheduler.config.get("_use_default_values", ())),
        "max_steps": bundle.defaults.max_steps,
        "channels": bundle.latent_channels,
        "predicts_variance": bundle.predicts_variance,
        "classes": bundle.scheduler_classes,
        "version": __version__,
        "code": _code(),
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def _code() -> str:
    """Of what tries and of what is tried, since a version number may last through many changes."""
    files = (Path(str(module.__file__)) for module in (table, schedulers))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _believed(content: Mapping[str, Any], most: int) -> dict[str, StepLimits]:
    limits = {
        name: StepLimits(limit["fewest"], limit["most"], tuple(limit["refused"])) for name, limit in content.items()
    }
    for name, limit in limits.items():
        numbers = (limit.fewest, *limit.refused, limit.most)
        if name not in (*table.SCHEDULERS, *table.CLASS_NAMES, *table.OWN_CLASS_NAMES):
            raise ValueError(f"no scheduler is called {name[:100]!r}")
        if not all(type(number) is int for number in numbers) or not 1 <= limit.fewest <= limit.most <= most:
            raise ValueError("impossible numbers of steps")
        if limit.refused and sorted({*numbers}) != [*numbers]:
            raise ValueError("impossible refusals")
    return limits
