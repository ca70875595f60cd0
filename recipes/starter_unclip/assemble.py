"""Put the trained parts together: `python -m recipes.starter_unclip.assemble` writes a whole StableUnCLIPPipeline folder.

Knows which part comes from where: the bundled model, the bundled scorer, or the work folder. Weights become float16.
`--untrained` takes parts that know nothing yet, for those who need a folder of the right layout.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from recipes.starter import adopt, tokens
from recipes.starter.assemble import _forget_paths
from recipes.starter.manifest import write_manifest
from recipes.starter.networks import half_copy
from recipes.starter_unclip import parts
from recipes.starter_unclip.towers import towers

DEFAULTS = {
    "num_inference_steps": 30,
    "max_steps": 100,
    "guidance_scale": 3.0,
    "max_guidance_scale": 20.0,
    "scheduler": "euler_a",
}
FOR_PICTURES = {
    "feature_extractor": ["transformers", "CLIPImageProcessor"],
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
}
"""What StableUnCLIPImg2ImgPipeline has in place of a prior: how a picture becomes the vector that it is drawn from."""
COPIED = ("vae", "text_encoder", "tokenizer", "scheduler")


def trained(work: Path) -> dict[str, Any]:
    """Prior, normalizer and UNet of a work folder."""
    options = {"local_files_only": True}
    return {
        "prior": diffusers.PriorTransformer.from_pretrained(work / "prior", **options),
        "image_normalizer": parts.StableUnCLIPImageNormalizer.from_pretrained(work / "image_normalizer", **options),
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


def assemble(made: dict[str, Any], model: Path, scorer: Path, folder: Path) -> None:
    """Write the folder, replacing one that is there. `made` are prior, normalizer and UNet."""
    text, vision = towers(scorer)
    tokenizer = tokens.load(model / "tokenizer")
    pipe = diffusers.StableUnCLIPPipeline(
        prior_tokenizer=tokens.load(scorer),
        prior_text_encoder=half_copy(text),
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
    shutil.rmtree(folder, ignore_errors=True)
    pipe.save_pretrained(folder, safe_serialization=True)
    half_copy(vision).save_pretrained(folder / "image_encoder")
    _take(model, scorer, folder)
    _forget_paths(folder)
    (folder / "darkroom.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n")
    write_manifest(folder)


def _take(model: Path, scorer: Path, folder: Path) -> None:
    """Parts that are the bundled ones, byte for byte."""
    for name in COPIED:
        shutil.rmtree(folder / name)
        shutil.copytree(model / name, folder / name)
    shutil.rmtree(folder / "prior_tokenizer")
    shutil.copytree(model / "tokenizer", folder / "prior_tokenizer")
    (folder / "feature_extractor").mkdir()
    shutil.copy(scorer / "preprocessor_config.json", folder / "feature_extractor")
    index = json.loads((folder / "model_index.json").read_text()) | FOR_PICTURES
    (folder / "model_index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/starter-unclip"))
    parser.add_argument("--model", type=Path, default=Path("models/starter"))
    parser.add_argument("--scorer", type=Path, default=Path("models/starter-scorer"))
    parser.add_argument("--folder", type=Path, help="default: WORK/starter-unclip")
    parser.add_argument("--untrained", action="store_true", help="the layout with random numbers in it")
    options = parser.parse_args()
    folder = options.folder or options.work / "starter-unclip"
    made = untrained(options.model, options.scorer) if options.untrained else trained(options.work)
    assemble(made, options.model, options.scorer, folder)
    print(f"{folder}, {sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
