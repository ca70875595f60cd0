"""Put the trained parts together: `python -m recipes.starter_unclip.assemble` writes the folder that is shipped.

It holds what was trained and an `assembly.json`, which says how a whole StableUnCLIPPipeline folder is made of it, the
bundled model and the bundled scorer (worker/models/assembly.py does so); `--whole FOLDER` writes that one too.
Weights become float16. `--untrained` takes parts that know nothing yet, for those who need a folder of this layout.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import load_file, save_file

from recipes.starter import adopt, tokens
from recipes.starter.assemble import forget_paths, size_of
from recipes.starter.manifest import write_manifest
from recipes.starter.networks import half_copy
from recipes.starter_unclip import parts
from recipes.starter_unclip.towers import towers
from worker.models.assembly import ASSEMBLY, MANIFEST, put_together

DEFAULTS = {
    "num_inference_steps": 30,
    "max_steps": 100,
    "guidance_scale": 3.0,
    "max_guidance_scale": 20.0,
    "scheduler": "euler_a",
    "prior_num_inference_steps": 25,
    "prior_guidance_scale": 1.0,
}
FOR_PICTURES = {
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
}
"""What StableUnCLIPImg2ImgPipeline has in place of a prior: how a picture becomes the vector that it is drawn from."""
OWN = (
    "darkroom.json",
    "image_encoder/config.json",
    "image_noising_scheduler",
    "image_normalizer",
    "model_index.json",
    "prior",
    "prior_scheduler",
    "prior_text_encoder/config.json",
    "unet/config.json",
)
"""What the shipped folder has of its own, beside the tensors of the UNet that were trained."""
UNET = "unet/diffusion_pytorch_model.safetensors"
TRAINED = "unet/trained.safetensors"


def trained(work: Path) -> dict[str, Any]:
    """Prior, normalizer and UNet of a work folder."""
    options = {"local_files_only": True}
    return {
        "prior": diffusers.PriorTransformer.from_pretrained(work / "prior", **options),
        "image_normalizer": parts.load_normalizer(work / "image_normalizer"),
        "unet": diffusers.UNet2DConditionModel.from_pretrained(work / "unet", **options),
    }


def untrained(model: Path, scorer: Path) -> dict[str, Any]:
    """The same with random numbers in the prior, and a UNet that draws as the bundled one whatever the vector says."""
    torch.manual_seed(0)
    config = transformers.CLIPConfig.from_pretrained(scorer)
    width, positions = config.projection_dim, config.text_config.max_position_embeddings
    prior = parts.prior(width, positions)
    torch.nn.init.ones_(prior.clip_std)
    return {
        "prior": prior,
        "image_normalizer": parts.image_normalizer(torch.zeros(1, width), torch.ones(1, width)),
        "unet": parts.widened(adopt.networks_of(model)[1], width),
    }


def assembly(model: str, scorer: str) -> dict[str, Any]:
    """Where the rest comes from; paths from the shipped folder."""
    towers_of = f"{scorer}/model.safetensors"
    text, vision = ("text_model.", "text_projection."), ("vision_model.", "visual_projection.")
    return {
        "copies": {
            "vae": f"{model}/vae",
            "text_encoder": f"{model}/text_encoder",
            "tokenizer": f"{model}/tokenizer",
            "prior_tokenizer": f"{model}/tokenizer",
            "scheduler": f"{model}/scheduler",
            "feature_extractor/preprocessor_config.json": f"{scorer}/preprocessor_config.json",
        },
        "tensors": {
            UNET: [{"file": f"{model}/{UNET}"}, {"file": TRAINED}],
            "prior_text_encoder/model.safetensors": [{"file": towers_of, "prefixes": text}],
            "image_encoder/model.safetensors": [{"file": towers_of, "prefixes": vision}],
        },
    }


def pipeline(made: dict[str, Any], model: Path, scorer: Path) -> diffusers.StableUnCLIPPipeline:
    """A stock pipeline in float16 around `made`: prior, normalizer and UNet."""
    tokenizer = tokens.load(model / "tokenizer")
    return diffusers.StableUnCLIPPipeline(
        prior_tokenizer=tokenizer,
        prior_text_encoder=half_copy(towers(scorer)[0]),
        prior=half_copy(made["prior"]),
        prior_scheduler=parts.prior_scheduler(),
        image_normalizer=half_copy(made["image_normalizer"]),
        image_noising_scheduler=parts.image_noising_scheduler(),
        tokenizer=tokenizer,
        text_encoder=half_copy(adopt.networks_of(model)[0]),
        unet=half_copy(made["unet"]),
        scheduler=diffusers.DPMSolverMultistepScheduler.from_pretrained(model / "scheduler", local_files_only=True),
        vae=half_copy(adopt.autoencoder_of(model)),
    )


def assemble(made: dict[str, Any], model: Path, scorer: Path, folder: Path) -> None:
    """Write the shipped folder; a card that is there stays. The hashes in it are those of the whole one."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        stock = Path(scratch) / "stock"
        pipeline(made, model, scorer).save_pretrained(stock, safe_serialization=True)
        half_copy(towers(scorer)[1]).save_pretrained(stock / "image_encoder")
        forget_paths(stock)
        index = json.loads((stock / "model_index.json").read_text()) | FOR_PICTURES
        _write(stock / "model_index.json", dict(sorted(index.items())))
        _write(stock / "darkroom.json", json.loads((model / "darkroom.json").read_text()) | DEFAULTS)
        for name in OWN:
            _take(stock / name, folder / name)
        save_file(parts.changed(made["unet"], load_file(model / UNET)), folder / TRAINED, metadata={"format": "pt"})
        _write(folder / ASSEMBLY, assembly(os.path.relpath(model, folder), os.path.relpath(scorer, folder)))
        whole = Path(scratch) / "whole"
        put_together(folder, whole)
        write_manifest(whole)
        shutil.copy(whole / MANIFEST, folder)
    # Learnt from the same icons and words.
    shutil.copy(model / "NOTICE", folder)


def _take(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/starter-unclip"))
    parser.add_argument("--model", type=Path, default=Path("models/starter"))
    parser.add_argument("--scorer", type=Path, default=Path("models/starter-scorer"))
    parser.add_argument("--folder", type=Path, help="default: WORK/starter-unclip")
    parser.add_argument("--whole", type=Path, help="write the whole folder here, as stock diffusers loads it")
    parser.add_argument("--untrained", action="store_true", help="the layout with random numbers in it")
    options = parser.parse_args()
    folder = options.folder or options.work / "starter-unclip"
    made = untrained(options.model, options.scorer) if options.untrained else trained(options.work)
    assemble(made, options.model, options.scorer, folder)
    if options.whole:
        put_together(folder, options.whole)
        shutil.copy(folder / MANIFEST, options.whole)
    print(f"{folder}, {size_of(folder) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
