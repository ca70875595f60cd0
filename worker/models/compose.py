"""A whole StableUnCLIP folder from its public parts: a decoder, a prior from elsewhere, and the CLIP that both read.

The decoder is published without a prior, and the prior (Karlo's) with a decoder of its own; diffusers' documentation
puts them together in memory for every start. Knows the layouts of the three. Refuses to know whether the parts fit:
that is judge.py's to say, before anything is left behind.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import transformers

from app.contract.messages.model_name import folder_name
from worker.models.errors import ModelError
from worker.models.folder import ModelFolder
from worker.models.hashes import MANIFEST
from worker.models.judge import judge
from worker.models.pipelines import STABLE_UNCLIP, STABLE_UNCLIP_IMAGE
from worker.models.quiet import quiet_libraries

PRIOR, SCHEDULERS = "prior", ("prior_scheduler", "scheduler")
"""Of the folder that the prior comes in: Karlo's has the first scheduler, a prior of its own the second."""

TOWER = ("text_encoder", "")
"""Where in a folder the text encoder of a CLIP is: beside other parts, or the folder is that CLIP."""

INDEX = "model_index.json"


def compose(target: Path, *, decoder: Path, prior: Path, text: Path | None = None) -> ModelFolder:
    """Write the whole model to `target`, which must not exist, with the hashes of its files.

    `decoder` is a folder of StableUnCLIPImg2ImgPipeline, `prior` one that has a PriorTransformer and its scheduler.
    `text` has the text encoder and the tokenizer that the prior was trained with, if those are not beside it: a folder
    of a CLIPModel, such as openai/clip-vit-large-patch14. Raises ModelError, one sentence for each reason why the
    parts make no model; then nothing is left behind.
    """
    if target.exists():
        raise ModelError(f"{target} exists; name a folder that does not.")
    source = ModelFolder(decoder)
    if source.pipeline.name not in (STABLE_UNCLIP_IMAGE.name, STABLE_UNCLIP.name):
        raise ModelError(f"{decoder} holds a {source.pipeline.name}; the decoder is a {STABLE_UNCLIP_IMAGE.name}.")
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with quiet_libraries():
            _write(partial, source, prior, text or prior)
        verdict = judge(partial)
        if verdict.faults:
            raise ModelError(*(fault.replace(str(partial), str(target)) for fault in verdict.faults))
        folder = ModelFolder(partial)
        sums = sorted((name, digest) for name, digest in folder.hashes.items())
        (partial / MANIFEST).write_text("".join(f"{digest}  {name}\n" for name, digest in sums), encoding="utf-8")
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ModelFolder(target)


def _write(target: Path, decoder: ModelFolder, prior: Path, text: Path) -> None:
    index: dict[str, Any] = {"_class_name": STABLE_UNCLIP.name, "_diffusers_version": diffusers.__version__}
    for name, entry in decoder.index.items():
        if name in STABLE_UNCLIP_IMAGE.components:
            index[name] = entry
            _copy(decoder, name, target)
    for name, part in _of_prior(prior, text):
        part.save_pretrained(target / name)
        index[name] = [type(part).__module__.partition(".")[0], type(part).__name__]
    _tell_origin(target / "prior_text_encoder" / "config.json", text)
    (target / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _tell_origin(config: Path, folder: Path) -> None:
    """By its name a CLIP can be told from another of the same size; transformers leaves it out when it saves."""
    said = json.loads(config.read_text(encoding="utf-8")) | {"_name_or_path": folder_name(folder)}
    config.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _copy(decoder: ModelFolder, name: str, target: Path) -> None:
    """The files of a part that are opened, and no others."""
    opened = [file for file in decoder.loaded_files() if file.parent == decoder.part(name)]
    (target / name).mkdir(parents=True)
    for file in opened:
        shutil.copyfile(file, target / name / file.name)


def _of_prior(prior: Path, text: Path) -> Iterator[tuple[str, Any]]:
    """Each part in front of the decoder, in the type that it is stored in."""
    scheduler = next((prior / name for name in SCHEDULERS if (prior / name).is_dir()), None)
    if not (prior / PRIOR / "config.json").is_file() or scheduler is None:
        raise ModelError(f"{prior} has no prior with its scheduler; name a folder such as that of karlo-v1-alpha.")
    yield PRIOR, _loaded(diffusers.PriorTransformer, prior / PRIOR)
    # UnCLIPScheduler has to be told each next timestep, and StableUnCLIPPipeline does not tell it.
    config = json.loads((scheduler / "scheduler_config.json").read_text(encoding="utf-8"))
    yield "prior_scheduler", diffusers.DDPMScheduler.from_config(_as_ddpm(config))
    tower = next(text / name for name in TOWER if (text / name / "config.json").is_file() or not name)
    if not (tower / "config.json").is_file():
        raise ModelError(f"{text} has no text encoder; name the folder of the CLIP that the prior was trained with.")
    yield "prior_text_encoder", _loaded(transformers.CLIPTextModelWithProjection, tower)
    tokenizer = text / "tokenizer" if (text / "tokenizer").is_dir() else tower
    yield "prior_tokenizer", transformers.CLIPTokenizer.from_pretrained(tokenizer, local_files_only=True)


def _as_ddpm(config: dict[str, Any]) -> dict[str, Any]:
    """A scheduler's configuration in DDPMScheduler's words: the noise that a prior was trained with was always this, so
    UnCLIPScheduler has no word for it."""
    return {"beta_schedule": "squaredcos_cap_v2", **config}


def _loaded(cls: Any, path: Path) -> Any:
    """Raises ModelError for weights that are not there, or not whole."""
    try:
        part, info = cls.from_pretrained(
            path, dtype="auto", use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except Exception as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path} cannot be loaded ({first[:200].rstrip('.')}); fetch it again.") from error
    if info["missing_keys"]:
        raise ModelError(f"The weights in {path} lack {min(map(str, info['missing_keys']))}; fetch it again.")
    return part
