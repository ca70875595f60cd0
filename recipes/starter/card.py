"""Write the cards of model and scorer: `python -m recipes.starter.card` fills templates with what was measured.

Knows markdown; every figure comes from the evaluation's, the decoder's and the trainings' own files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

import diffusers
import transformers

from recipes.starter import assemble, networks, sprites, tokens, train_judges
from recipes.starter.sources import PACKAGES
from recipes.starter.words import COLOURS, OBJECTS, POSITIONS, SCENES, SHAPES

TEMPLATE = Path(__file__).with_name("card.md")
SCORER_TEMPLATE = Path(__file__).with_name("scorer_card.md")
FROM_SCRATCH = "From scratch with `make starter-model`"
STAGES = {"train_decoder": "decoder", "train_unet": "text encoder and UNet", "train_scorer": "scorer", "judge": "judge"}


def table(evaluation: Mapping[str, Any]) -> str:
    """Category by category: share, ceiling, chance."""
    lines = ["| category | prompts | what | right | rule's ceiling | chance |", "|---|---|---|---|---|---|"]
    for name, figures in evaluation["categories"].items():
        for check, shares in figures["checks"].items():
            chance = "" if shares["chance"] is None else f"{shares['chance']:.2f}"
            words = check.replace("_", " ")
            values = f"{shares['right']:.2f} | {shares['ceiling']:.2f} | {chance}"
            lines.append(f"| {name} | {figures['prompts']} | {words} | {values} |")
    return "\n".join(lines)


def trainings(work: Path) -> str:
    """Samples and minutes of each training that left a log."""
    lines = ["| training | samples | minutes | last loss |", "|---|---|---|---|"]
    for folder, name in STAGES.items():
        log = work / folder / "log.jsonl"
        if log.is_file():
            last = last_line(log)
            lines.append(f"| {name} | {last['samples']:,} | {last['seconds'] / 60:.1f} | {last['loss']:.4f} |")
    return "\n".join(lines)


def last_line(log: Path) -> dict[str, Any]:
    """How far a training is, by its log."""
    last: dict[str, Any] = json.loads(log.read_text().splitlines()[-1])
    return last


def sources() -> str:
    return "\n".join(
        f"- `{package.name}` {package.version} by {package.author}, {package.licence}, {package.origin}"
        for package in PACKAGES
    )


def write(work: Path, folder: Path, evaluation: Mapping[str, Any], *, device: str, origin: str = FROM_SCRATCH) -> None:
    """README.md in `folder`; the objects it names are those of the work folder's sprites.

    Raises ValueError if the folder is over the limit with it.
    """
    known = [name for name in sprites.names(work / "sprites.npz") if name in OBJECTS]
    parts = {
        "text": transformers.CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True),
        "unet": diffusers.UNet2DConditionModel.from_pretrained(folder / "unet", local_files_only=True),
        "vae": diffusers.AutoencoderTiny.from_pretrained(folder / "vae", local_files_only=True),
    }
    values = {
        "size": f"{assemble.size_of(folder) / 1e6:.1f}",
        "tokens": f"{len(tokens.load(folder / 'tokenizer')):,}",
        "text": f"{networks.parameters(parts['text']) / 1e6:.2f}",
        "unet": f"{networks.parameters(parts['unet']) / 1e6:.2f}",
        "decoder": f"{networks.parameters(parts['vae'].decoder) / 1e6:.2f}",
        "channels": parts["unet"].config.in_channels,
        "psnr": json.loads((work / "vae.json").read_text())["psnr"],
        "objects": len(known),
        "shapes": ", ".join(SHAPES),
        "colours": ", ".join(COLOURS),
        "scenes": ", ".join(phrases[0] for phrases in SCENES.values()),
        "positions": ", ".join(POSITIONS),
        "nouns": ", ".join(OBJECTS[name][0] for name in known),
        "steps": evaluation["steps"],
        "guidance": evaluation["guidance"],
        "device": device,
        "origin": origin,
        "trainings": trainings(work),
        "table": table(evaluation),
        "sources": sources(),
    }
    (folder / "README.md").write_text(Template(TEMPLATE.read_text()).substitute(values))
    if (total := assemble.size_of(folder)) > assemble.LIMIT:
        raise ValueError(f"{folder} has {total} bytes, over the limit of {assemble.LIMIT}; make the networks smaller.")


def write_scorer(work: Path, evaluation: Mapping[str, Any], *, device: str) -> None:
    """README.md of the scorer that `assemble` made, with the evaluation's ceilings: they are of true pictures."""
    folder = work / assemble.SCORER
    last = last_line(work / "train_scorer" / "log.jsonl")
    asked = evaluation["categories"]
    seen = {name: figures["checks"].get("object_by_scorer") for name, figures in asked.items()}
    ceilings = {name: f"{shares['ceiling']:.2f}" for name, shares in seen.items() if shares}
    told = [
        f"| {name} | {figures['told_apart']['ceiling']:.2f} |"
        for name, figures in asked.items()
        if "told_apart" in figures
    ]
    model = transformers.CLIPModel.from_pretrained(folder, local_files_only=True)
    values = {
        "parameters": f"{networks.parameters(model) / 1e6:.1f}",
        "size": f"{assemble.size_of(folder) / 1e6:.1f}",
        "training": f"{last['samples']:,} pictures in {last['seconds'] / 60:.0f} minutes",
        "device": device,
        "objects": evaluation["objects"],
        "chance": f"{1 / evaluation['objects']:.2f}",
        "plain": ceilings.get("object", "(not measured)"),
        "recoloured": ceilings.get("recoloured object", "(not measured)"),
        "scene": ceilings.get("scene", "(not measured)"),
        "mistakes": train_judges.MISTAKES,
        "guess": f"{1 / (1 + train_judges.MISTAKES):.2f}",
        "told": "\n".join(told),
    }
    (folder / "README.md").write_text(Template(SCORER_TEMPLATE.read_text()).substitute(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/starter"))
    parser.add_argument("--folder", type=Path, help="default: WORK/model")
    parser.add_argument("--device", default="one device", help="what it was trained on, in words")
    parser.add_argument("--origin", default=FROM_SCRATCH, help="where the weights began, in words")
    options = parser.parse_args()
    evaluation = json.loads((options.work / "evaluation.json").read_text())
    if (options.work / assemble.SCORER).is_dir():
        write_scorer(options.work, evaluation, device=options.device)
    write(
        options.work, options.folder or options.work / "model", evaluation, device=options.device, origin=options.origin
    )


if __name__ == "__main__":
    main()
