"""How well texts fit a picture: `python -m recipes.starter.score out.png "a red circle" "a blue square"`.

And which of several pictures fits a text best: `… score --best-of "a red circle" one.png two.png three.png`. Prints the
cosine of each picture and text, -1..1, the best first. Refuses what is no picture, a picture of more than MAX_PIXELS, a
folder that is no scorer, and more than MAX_COMPARED texts or pictures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from app.contract.messages.model_name import BUNDLED_SCORER
from worker.models.errors import ModelError
from worker.models.scorer import Picture, Scorer, load_scorer

MAX_COMPARED = 32
MAX_PIXELS = 8192 * 8192


def ranked(scorer: Scorer, picture: Path, texts: Sequence[str]) -> list[tuple[float, str]]:
    """The texts with their cosines. OSError for what is no picture, ValueError for one that is too big."""
    cosines = scorer.text_features(texts) @ scorer.image_features([pixels_of(picture)])[0]
    return sorted(zip(cosines.tolist(), texts, strict=True), reverse=True)


def best_of(scorer: Scorer, text: str, pictures: Sequence[Path]) -> list[tuple[float, str]]:
    """The pictures' paths with their cosines. Raises as `ranked`."""
    images = torch.cat([scorer.image_features([pixels_of(picture)]) for picture in pictures])
    cosines = images @ scorer.text_features([text])[0]
    return sorted(zip(cosines.tolist(), map(str, pictures), strict=True), reverse=True)


def pixels_of(picture: Path) -> Picture:
    with Image.open(picture) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{picture} has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read")
        return np.asarray(image.convert("RGB"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("compared", nargs="*", metavar="text", help="with --best-of: further pictures")
    parser.add_argument("--best-of", metavar="TEXT", help="compare pictures by this text")
    parser.add_argument(
        "--scorer", type=Path, default=BUNDLED_SCORER, help="folder of a CLIPModel that the recipe trained"
    )
    options = parser.parse_args(arguments)
    if not options.compared and options.best_of is None:
        parser.error("say at least one text after the picture")
    if (count := len(options.compared) + (options.best_of is not None)) > MAX_COMPARED:
        parser.error(f"{count} are too many; at most {MAX_COMPARED} are compared at a time")
    try:
        scorer = load_scorer(options.scorer)
        if options.best_of is None:
            lines = ranked(scorer, options.picture, options.compared)
        else:
            lines = best_of(scorer, options.best_of, [options.picture, *map(Path, options.compared)])
    except (OSError, ValueError, ModelError, Image.DecompressionBombError) as error:
        parser.error(str(error))
    for score, name in lines:
        print(f"{score:6.3f}  {name}")


if __name__ == "__main__":
    main()
