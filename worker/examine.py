"""`python -m worker.examine [folder]`: what this machine offers a worker, as one JSON object on standard output.

For `darkroom doctor`, which may not import this room. Knows torch and the model folder; loads no weights.
"""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from app.contract.environment import SettingsError
from app.contract.model_name import IllegalName, model_name
from worker.models.errors import ModelError
from worker.models.folder import ModelFolder
from worker.settings import settings_from_env

NEEDED = ("torch", "diffusers", "transformers", "safetensors", "PIL")


def examine(folder: Path | None) -> dict[str, Any]:
    """Facts by name: `missing` packages, `versions`, `gpus`, and `model` or `model_error`, or `settings_error`."""
    try:
        settings = settings_from_env()
    except SettingsError as error:
        return {"settings_error": str(error)}
    return _packages() | _devices(settings.device) | _model(folder or settings.model, settings.model_name)


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


def _model(folder: Path, chosen_name: str | None = None) -> dict[str, Any]:
    try:
        name, found = model_name(folder, chosen_name), ModelFolder(folder)
        for component in found.family.weights:
            found.variant_of(component)
    except (IllegalName, ModelError, OSError) as error:
        return {"model_error": str(error)}
    return {"model": {"path": str(folder), "name": name, "sha256": found.sha256}}


if __name__ == "__main__":
    json.dump(examine(Path(sys.argv[1]) if len(sys.argv) > 1 else None), sys.stdout)
