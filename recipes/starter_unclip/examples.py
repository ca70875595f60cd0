"""What the training steps eat: latents, image vectors and captions of composed pictures, computed once.

`python -m recipes.starter_unclip.examples --count 60000` appends to memory-mapped files in the work folder until there
are so many; a training may begin as soon as there are some. Knows the sampler of recipes.starter, which never draws a
combination that the examination asks for; knows no network that is trained.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from recipes.starter import adopt, autoencoder, sprites
from recipes.starter.captions import caption
from recipes.starter.compose import Composer
from recipes.starter.plan import Plan, Wishes
from recipes.starter.stream import SQUARE, PlanStream, batches, tokenise
from recipes.starter_unclip.towers import embed, towers

CAPTIONS = 2
"""Of each picture, in different words."""
ROWS = 64
MIXTURE = Wishes(shape_share=0.5, style_share=0.12)
SINGLE_SHAPES = Wishes(modes=("single",), shape_share=1.0, style_share=0.12)
"""What is shown most often, and one example of five in the mixture: of 3,700 of those, a network of two layers learnt
to tell 0.72 of the shapes by their vectors."""

KINDS = ("shape", "object", "several")
"""One shape, one object, or more things than one."""
TYPES = {"latents": np.float16, "vectors": np.float32, "tokens": np.int16, "kinds": np.int8}


@dataclass(frozen=True)
class Examples:
    """`latents` float16 [N, L, h, w] of unit variance, `vectors` float32 [N, D], `tokens` int16 [N, CAPTIONS, P],
    `kinds` int8 [N], of KINDS."""

    latents: NDArray[np.float16]
    vectors: NDArray[np.float32]
    tokens: NDArray[np.int16]
    kinds: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.vectors)

    def latents_of(self, rows: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(self.latents[rows]).float()

    def vectors_of(self, rows: NDArray[np.int64]) -> torch.Tensor:
        return torch.from_numpy(self.vectors[rows])

    def tokens_of(self, rows: NDArray[np.int64], which: int) -> torch.Tensor:
        return torch.from_numpy(self.tokens[rows, which]).long()


def load(folder: Path) -> Examples:
    """Those that are there by now. Raises FileNotFoundError if there are none."""
    files = {name: folder / f"{name}.bin" for name in TYPES}
    if not all(file.is_file() for file in files.values()) or not (folder / "shapes.npz").is_file():
        raise FileNotFoundError(f"There are no examples in {folder}; run recipes.starter_unclip.examples first.")
    row = {name: tuple(shape) for name, shape in np.load(folder / "shapes.npz").items()}
    count = min(
        file.stat().st_size // (math.prod(row[name]) * np.dtype(TYPES[name]).itemsize) for name, file in files.items()
    )
    return Examples(
        **{name: np.memmap(file, TYPES[name], "r", shape=(count, *row[name])) for name, file in files.items()}
    )


def kind_of(plan: Plan) -> int:
    name = "several" if plan.mode != "single" else "shape" if plan.things[0].is_shape else "object"
    return KINDS.index(name)


class Maker:
    """Turns plans into rows of the files."""

    def __init__(self, composer: Composer, model: Path, scorer: Path, seed: int, wishes: Wishes = MIXTURE) -> None:
        self.composer = composer
        self.text, self.vision = towers(scorer)
        self.tokenizer = transformers.CLIPTokenizer.from_pretrained(scorer, local_files_only=True)
        self.components = autoencoder.components_of(adopt.autoencoder_of(model))
        self.chance = random.Random(f"{seed}/captions")
        stream = PlanStream(composer.sprites.names, rows=ROWS, seed=seed, buckets=SQUARE, wishes=wishes)
        self.stream = batches(stream, processes=0)

    def rows(self) -> dict[str, NDArray[Any]]:
        batch = next(self.stream)
        pictures = self.composer.draw(batch.packed)
        with torch.no_grad():
            vectors = embed(self.vision, pictures)
        said = [[caption(self.chance, plan) for _ in range(CAPTIONS)] for plan in batch.plans]
        tokens = tokenise(self.tokenizer, [words for each in said for words in each])
        return {
            "latents": autoencoder.encode(pictures, self.components).half().numpy(),
            "vectors": vectors.numpy(),
            "tokens": tokens.view(len(said), CAPTIONS, -1).numpy().astype(np.int16),
            "kinds": np.array([kind_of(plan) for plan in batch.plans], np.int8),
        }


def write(maker: Maker, folder: Path, count: int) -> None:
    """Append until there are `count` examples. Latents are written first, so that no row is missing its picture."""
    folder.mkdir(parents=True, exist_ok=True)
    done, started = 0, time.monotonic()
    while done < count:
        rows = maker.rows()
        if not done:
            np.savez(
                folder / "shapes.npz",
                allow_pickle=False,
                **{name: np.array(array.shape[1:]) for name, array in rows.items()},
            )
        for name, array in rows.items():
            with (folder / f"{name}.bin").open("ab") as file:
                file.write(array.tobytes())
        done += len(rows["vectors"])
        if done % (ROWS * 50) == 0:
            print(f"{done} examples, {done / (time.monotonic() - started):.0f} a second", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/starter-unclip"), help="has sprites.npz")
    parser.add_argument("--model", type=Path, default=Path("models/starter"))
    parser.add_argument("--scorer", type=Path, default=Path("models/starter-scorer"))
    parser.add_argument("--count", type=int, default=60_000)
    parser.add_argument("--single-shapes", action="store_true", help="nothing but those")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    composer = Composer(sprites.load(options.work / "sprites.npz"))
    wishes = SINGLE_SHAPES if options.single_shapes else MIXTURE
    maker = Maker(composer, options.model, options.scorer, options.seed, wishes)
    write(maker, options.work / "examples", options.count)


if __name__ == "__main__":
    main()
