"""`python -m worker.examine [folder]`: what this machine offers a worker, as one JSON object on standard output.

For `darkroom doctor`, which may not import this package. Knows torch and the model folder; loads no weights.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from app.contract.common.environment import SettingsError
from app.contract.messages.model_name import BUNDLED_SCORER, IllegalName, model_name
from worker.models.assembly import AssemblyError, meant, whole_model
from worker.models.configs import part_dtype
from worker.models.errors import ModelError
from worker.models.folder import ModelFolder
from worker.models.found import model_folders
from worker.models.judge import Verdict, judge
from worker.models.need import BYTES, Need
from worker.models.scorer_folder import is_scorer
from worker.models.scorer_judge import ScorerVerdict, judge_scorer
from worker.settings import WorkerSettings, settings_from_env

NEEDED = ("torch", "diffusers", "transformers", "safetensors", "PIL")


def examine(folder: Path | None) -> dict[str, Any]:
    """Facts by name: `missing` packages, `versions`, `gpus`, and `model`, or `settings_error`.

    `model` has what the worker would say, or `models` of each of several: `faults`, `notes`, and `unjudged`, what only
    its packages could tell; and `adapters`, what is beside it. `scorer` has the same of the scorer, which may be all
    there is.
    """
    try:
        settings = settings_from_env()
    except SettingsError as error:
        return {"settings_error": str(error)}
    if settings.models and folder is None:
        each = [_model(path, settings)["model"] for path in model_folders(settings.models)]
        return _packages() | _devices(settings.device) | {"models": each} | _scorer_beside(settings)
    model = meant(folder or settings.model)
    if is_scorer(model):
        return _packages() | _devices(settings.device) | {"scorer": _scorer(model, settings)}
    return _packages() | _devices(settings.device) | _model(model, settings) | _scorer_beside(settings)


def _scorer_beside(settings: WorkerSettings) -> dict[str, Any]:
    scorer = settings.scorer
    # A worker does without the bundled one too, in an installation that has none.
    if scorer is None or (scorer == BUNDLED_SCORER and not scorer.is_dir()):
        return {}
    return {"scorer": _scorer(scorer, settings)}


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

        from worker.models.place import multiplies_bfloat16
    except ImportError:
        return {"gpus": [], "device": None}
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    gpus = [{"name": each.name, "bytes": each.total_memory} for each in properties]
    return {
        "gpus": gpus,
        "device": ("cuda" if gpus else "cpu") if wanted == "auto" else wanted,
        "cuda_build": torch.version.cuda,
        "threads": torch.get_num_threads(),
        "multiplies_bfloat16": multiplies_bfloat16(),
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
    if verdict.folder and verdict.need and not verdict.faults and not verdict.unjudged:
        facts["adapters"], bank = _adapters(verdict.folder, verdict.need, settings)
        if bank:
            # A bank is there from the start on, also while nobody asks for a LoRA.
            more = replace(verdict.need, weights=verdict.need.weights + bank)
            facts["notes"] = (*verdict.notes, *_tight(more, folder, settings)) if not verdict.notes else verdict.notes
    return {"model": facts | {"unjudged": verdict.unjudged}}


def _scorer(folder: Path, settings: WorkerSettings) -> dict[str, Any]:
    try:
        place = _place(settings)
        # As load_scorer has it: bfloat16 is too coarse for cosines.
        dtype = "float16" if place and place.dtype_name == "float16" else "float32"
        verdict = judge_scorer(folder, dtype=dtype, rooms=place.rooms() if place else None)
    except ModelError as error:  # the device or the type, not the folder
        verdict = ScorerVerdict(path=folder, faults=error.faults)
    facts: dict[str, Any] = {"path": str(folder), "faults": verdict.faults, "notes": verdict.notes}
    if verdict.folder:
        facts |= {"family": verdict.folder.family, "layout": verdict.folder.layout.kind}
    if verdict.need:
        facts |= {"weights": verdict.need.weights, "dtype": verdict.need.dtype}
    return facts | {"unjudged": verdict.unjudged}


def _tight(need: Need, folder: Path, settings: WorkerSettings) -> Iterator[str]:
    from worker.models.place import place_of

    yield from place_of(settings.device, settings.dtype).rooms().notes(need, folder)


def _adapters(folder: ModelFolder, need: Need, settings: WorkerSettings) -> tuple[dict[str, Any], int]:
    """What lies in the folders beside the model: names of what a start serves, and what it leaves out; or `fault`. And
    the bytes that the bank of its LoRAs takes."""
    from worker.models.adapters import adapters_beside

    try:
        shelves, values = adapters_beside(folder, loras=settings.loras, embeddings=settings.embeddings)
    except ModelError as error:
        return {"fault": str(error)}, 0
    told: dict[str, Any] = {
        kind: {"served": list(shelf.served), "faults": shelf.faults} for kind, shelf in shelves.items()
    }
    bank = values * BYTES[part_dtype(folder, "unet", need.dtype)]
    if bank:
        told["loras"]["bytes"] = bank
    return told, bank


def _verdict(folder: Path, settings: WorkerSettings) -> Verdict:
    beside = partial(
        judge, controlnets=settings.kept_controlnets(), vae=settings.vae, prior=settings.prior, safety=settings.safety
    )
    place = _place(settings)
    return beside(folder, dtype=place.dtype_name, rooms=place.rooms()) if place else beside(folder)


def _place(settings: WorkerSettings) -> Any:
    """Where a model would run; None without torch."""
    try:
        from worker.models.place import place_of
    except ImportError:
        return None
    return place_of(settings.device, settings.dtype)


if __name__ == "__main__":
    # It ends in seconds: to look for garbage in what torch and diffusers bring along would take one more.
    gc.disable()
    # Standard output is the answer: what is logged on the way, by whomever, goes to the other stream.
    with redirect_stdout(sys.stderr):
        facts = examine(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    json.dump(facts, sys.stdout)
