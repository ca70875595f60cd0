"""`python -m worker.examine [folder]`: what this machine offers a worker, as one JSON object on standard output.

For `darkroom doctor`, which may not import this package. Knows torch and the model folder; loads no weights.
"""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from app.contract.common.environment import SettingsError
from app.contract.messages.assembly import AssemblyError, whole_model
from app.contract.messages.model_name import IllegalName, model_name
from worker.models.errors import ModelError
from worker.models.folder import ModelFolder
from worker.models.judge import Verdict, judge
from worker.settings import WorkerSettings, settings_from_env

NEEDED = ("torch", "diffusers", "transformers", "safetensors", "PIL")


def examine(folder: Path | None) -> dict[str, Any]:
    """Facts by name: `missing` packages, `versions`, `gpus`, and `model`, or `settings_error`.

    `model` has what the worker would say: `faults`, `notes`, and `unjudged`, what only its packages could tell; and
    `adapters`, what is beside it.
    """
    try:
        settings = settings_from_env()
    except SettingsError as error:
        return {"settings_error": str(error)}
    return _packages() | _devices(settings.device) | _model(folder or settings.model, settings)


def _packages() -> dict[str, Any]:
    versions, missing = {}, {}
    for name in NEEDED:
        try:
            versions[name] = str(import_module(name).__version__)
        except ImportError as error:
            missing[name] = str(error)
    return {"versions": versions, "missing": missing}


def _devices(wanted: str) -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        return {"gpus": [], "device": None}
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    gpus = [{"name": each.name, "bytes": each.total_memory} for each in properties]
    return {
        "gpus": gpus,
        "device": ("cuda" if gpus else "cpu") if wanted == "auto" else wanted,
        "cuda_build": torch.version.cuda,
        "threads": torch.get_num_threads(),
    }


def _model(folder: Path, settings: WorkerSettings) -> dict[str, Any]:
    try:
        name = model_name(folder, settings.model_name)
        folder = whole_model(folder)
        verdict = _verdict(folder, settings)
    except (IllegalName, AssemblyError) as error:
        return {"model": {"path": str(folder), "faults": (str(error),), "notes": (), "unjudged": ""}}
    except ModelError as error:  # the device or the type, not the folder
        return {"model": {"path": str(folder), "faults": error.faults, "notes": (), "unjudged": ""}}
    facts: dict[str, Any] = {"path": str(folder), "faults": verdict.faults, "notes": verdict.notes}
    if verdict.folder and verdict.defaults:
        facts |= {
            "name": name,
            "family": verdict.folder.pipeline.name,
            "size": [verdict.defaults.width, verdict.defaults.height],
        }
    if verdict.need:
        facts |= {"weights": verdict.need.weights, "dtype": verdict.need.dtype}
    facts["vae"] = str(settings.vae) if settings.vae else None
    facts["prior"] = str(settings.prior) if settings.prior else None
    facts["controlnets"] = sorted(verdict.controlnets.files)
    if verdict.folder and not verdict.faults and not verdict.unjudged:
        facts["adapters"] = _adapters(verdict.folder, settings)
    return {"model": facts | {"unjudged": verdict.unjudged}}


def _adapters(folder: ModelFolder, settings: WorkerSettings) -> dict[str, Any]:
    """What lies in the folders beside the model: names of what a start serves, and what it leaves out; or `fault`."""
    from worker.models.adapters import adapters_beside

    try:
        shelves = adapters_beside(folder, loras=settings.loras, embeddings=settings.embeddings)
    except ModelError as error:
        return {"fault": str(error)}
    return {kind: {"served": list(shelf.served), "faults": shelf.faults} for kind, shelf in shelves.items()}


def _verdict(folder: Path, settings: WorkerSettings) -> Verdict:
    beside = partial(
        judge, controlnets=settings.kept_controlnets(), vae=settings.vae, prior=settings.prior, safety=settings.safety
    )
    try:
        from worker.models.place import place_of
    except ImportError:
        return beside(folder)
    place = place_of(settings.device, settings.dtype)
    return beside(folder, dtype=place.dtype_name, rooms=place.rooms())


if __name__ == "__main__":
    # Standard output is the answer: what is logged on the way, by whomever, goes to the other stream.
    with redirect_stdout(sys.stderr):
        facts = examine(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    json.dump(facts, sys.stdout)
