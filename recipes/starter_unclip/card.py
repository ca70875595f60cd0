"""The card of the bundled unCLIP model, from what its training and examination left: `python -m
recipes.starter_unclip.card`.

Knows the files of the work folder and `card.md`, where each $name is one of the figures here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from string import Template
from typing import Any

from recipes.starter_unclip import assemble, train_unet
from recipes.starter_unclip.examples import load


def card(work: Path, folder: Path, device: str) -> str:
    """The text. Raises FileNotFoundError for what was not done yet."""
    evaluation = json.loads((work / "evaluation.json").read_text())
    prior, unet = (_last(work / name / "log.jsonl") for name in ("train_prior", "train_unet"))
    return Template((Path(__file__).parent / "card.md").read_text()).substitute(
        {
            "device": device,
            "examples": f"{len(load(work / 'examples')):,}",
            "prior_rows": f"{prior['samples']:,}",
            "prior_minutes": round(prior["seconds"] / 60),
            "prior_loss": f"{prior['loss']:.2f}",
            "unet_rows": f"{unet['samples']:,}",
            "unet_minutes": round(unet["seconds"] / 60),
            "megabytes": f"{(folder / assemble.TRAINED).stat().st_size / 1e6:.1f}",
            "without_caption": f"{train_unet.WITHOUT_CAPTION:.0%}",
            "steps": evaluation["steps"],
            "guidance": evaluation["guidance_scale"],
            "prior_guidance": evaluation["prior_guidance_scale"],
            "prompts": evaluation["prompts"],
            "objects": evaluation["objects"],
            "table": _table(evaluation),
        }
    )


def _last(log: Path) -> dict[str, Any]:
    return dict(json.loads(log.read_text().splitlines()[-1]))


def _table(evaluation: dict[str, Any]) -> str:
    asked = {name: found for name, found in evaluation.items() if isinstance(found, dict)}
    columns = list(dict.fromkeys(check for found in asked.values() for check in found))
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, found in asked.items():
        cells = [f"{found[check]:.2f}" if check in found else "" for check in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/starter-unclip"))
    parser.add_argument("--folder", type=Path, help="default: WORK/starter-unclip")
    parser.add_argument("--device", default="a CPU", help="what it was trained on, in words")
    options = parser.parse_args()
    folder = options.folder or options.work / "starter-unclip"
    (folder / "README.md").write_text(card(options.work, folder, options.device))


if __name__ == "__main__":
    main()
