"""How well texts fit a picture: `python -m models.starter_recipe.score out.png "a red circle" "a blue square"`.

Prints the cosine of the picture and each text, -1..1, the best first. Refuses what is no picture, a picture of more
than MAX_PIXELS, a folder that is no scorer, and more than MAX_TEXTS texts.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from transformers.utils import logging

from models.starter_recipe.assemble import SCORER
from models.starter_recipe.looks import Scorer

MADE = Path("build/starter") / SCORER
MAX_TEXTS = 32
MAX_PIXELS = 8192 * 8192


def ranked(scorer: Scorer, picture: Path, texts: Sequence[str]) -> list[tuple[float, str]]:
    """The texts with their cosines. OSError for what is no picture, ValueError for one that is too big."""
    with Image.open(picture) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{picture} has {image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are read")
        pixels = np.asarray(image.convert("RGB"))
    cosines = scorer.texts(texts) @ scorer.images([pixels])[0]
    return sorted(zip(cosines.tolist(), texts, strict=True), reverse=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path)
    parser.add_argument("texts", nargs="+", metavar="text")
    parser.add_argument("--scorer", type=Path, default=MADE, help="folder of a CLIPModel that the recipe trained")
    options = parser.parse_args(arguments)
    if len(options.texts) > MAX_TEXTS:
        parser.error(f"{len(options.texts)} texts are too many; at most {MAX_TEXTS} at a time")
    logging.disable_progress_bar()
    try:
        lines = ranked(Scorer(options.scorer), options.picture, options.texts)
    except (OSError, ValueError, SafetensorError, Image.DecompressionBombError) as error:
        parser.error(str(error))
    for score, text in lines:
        print(f"{score:6.3f}  {text}")


if __name__ == "__main__":
    main()
