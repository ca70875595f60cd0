"""Put the trained parts together: `python -m recipes.starter.assemble` writes the folder that is shipped.

Knows the layout of StableDiffusionPipeline and what Darkroom reads beside it. Weights become float16. Refuses a folder
over the size limit. The card is written by `card`, after the evaluation.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import transformers

from recipes.starter import networks, sprites, tokens, vocabulary
from recipes.starter.diffusion import SCHEDULE
from recipes.starter.manifest import write_manifest
from recipes.starter.sheet import GUIDANCE, SCHEDULER, STEPS
from recipes.starter.sources import PACKAGES, Package, fetch, read_member
from recipes.starter.words import OBJECTS

LIMIT = 28_000_000
"""Bytes of everything in the folder: it travels with every clone."""

DEFAULTS = {
    "num_inference_steps": STEPS,
    "max_steps": 100,
    "guidance_scale": GUIDANCE,
    "max_guidance_scale": 20.0,
    "scheduler": SCHEDULER,
}
SCORER = "starter-scorer"
"""Beside the model, not in it: nothing that draws needs it."""


def pipeline(*, tokenizer: Any, text_encoder: Any, unet: Any, vae: Any) -> diffusers.StableDiffusionPipeline:
    """A stock pipeline around the parts, silent, with the scheduler that the model is shipped with."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **SCHEDULE,
        prediction_type="v_prediction",
        algorithm_type="dpmsolver++",
        solver_order=2,
        timestep_spacing="trailing",
        steps_offset=1,
    )
    # Other schedulers are made from this configuration; DDPM's and DDIM's defaults would clip latents at 1.
    scheduler.register_to_config(clip_sample=False, set_alpha_to_one=False)
    pipe = diffusers.StableDiffusionPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        vae=vae,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def assemble(work: Path, folder: Path) -> int:
    """Write the model in `folder`, replacing one that is there; its bytes. Raises ValueError over the limit."""
    text_encoder = transformers.CLIPTextModel.from_pretrained(work / "text_encoder", local_files_only=True)
    unet = diffusers.UNet2DConditionModel.from_pretrained(work / "unet", local_files_only=True)
    vae = diffusers.AutoencoderTiny.from_pretrained(work / "vae", local_files_only=True)
    tokenizer = tokens.load(work / "tokenizer")
    shutil.rmtree(folder, ignore_errors=True)
    halves = {
        name: networks.half_copy(part)
        for name, part in {"text_encoder": text_encoder, "unet": unet, "vae": vae}.items()
    }
    pipeline(tokenizer=tokenizer, **halves).save_pretrained(folder, safe_serialization=True)
    tokens.save(tokenizer, folder / "tokenizer")
    forget_paths(folder)
    (folder / "darkroom.json").write_text(json.dumps(DEFAULTS, indent=2) + "\n")
    vocabulary.write(folder, [name for name in sprites.names(work / "sprites.npz") if name in OBJECTS])
    write_manifest(folder)
    if (size := size_of(folder)) > LIMIT:
        raise ValueError(f"{folder} has {size} bytes, over the limit of {LIMIT}; make the networks smaller.")
    return size


def assemble_scorer(work: Path) -> Path:
    """The scorer with its hashes, in a folder of the name that it is shipped by."""
    folder = work / SCORER
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(work / "scorer", folder)
    write_manifest(folder)
    return folder


def size_of(folder: Path) -> int:
    """Bytes of all files."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def write_notice(folder: Path, cache: Path) -> None:
    """Whose pictures and words were learnt from, under which licence, with the text that the licence wants kept."""
    parts = [
        f"{package.name} {package.version}, {package.author}, {package.licence}, {package.origin}"
        for package in PACKAGES
    ]
    licences = [f"{package.author}:\n\n{licence_text(package, cache)}" for package in PACKAGES]
    words = "The weights in this folder were trained on pictures and words of these npm packages:"
    (folder / "NOTICE").write_text("\n\n".join([words, "\n".join(parts), *licences]).rstrip() + "\n")


def licence_text(package: Package, cache: Path) -> str:
    """The licence as the package has it, or MIT's terms in the name of its author."""
    if package.has_licence_file:
        return read_member(package, cache, "LICENSE").strip()
    return MIT.format(author=package.author)


def forget_paths(folder: Path) -> None:
    """diffusers writes where a part was loaded from; that is nobody's business."""
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text())
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


MIT = """MIT License

Copyright (c) {author}.

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/starter"))
    parser.add_argument("--folder", type=Path, help="default: WORK/model")
    options = parser.parse_args()
    folder = options.folder or options.work / "model"
    for package in PACKAGES:
        fetch(package, options.work / "cache")
    size = assemble(options.work, folder)
    write_notice(folder, options.work / "cache")
    print(f"{folder}, {size / 1e6:.1f} MB")
    if (options.work / "scorer").is_dir():
        scorer = assemble_scorer(options.work)
        write_notice(scorer, options.work / "cache")
        print(f"{scorer}, {size_of(scorer) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
