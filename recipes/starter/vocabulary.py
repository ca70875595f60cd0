"""What the captions can say, as the list that Darkroom reads: `python -m recipes.starter.vocabulary` writes it.

Knows the tables of `words` and the forms of `captions`; which objects a model has learned, its card says. A test walks
through all that `captions` can say and finds the same words.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from recipes.starter import captions
from recipes.starter.manifest import write_manifest
from recipes.starter.plan import is_uncountable
from recipes.starter.words import (
    COLOURS,
    COUNTS,
    FILLERS,
    OBJECTS,
    POSITIONS,
    SCENES,
    SHAPES,
    SIZES,
    STYLES,
    plural,
)

DEFAULTS = "darkroom.json"

EXAMPLES = (
    "a panda on a pink background",
    "a red circle on a blue background",
    "three yellow stars at night",
    "a dog on grass",
    "a ghost at night",
    "a pink heart on a black background",
    "a rainbow in the sky",
    "a penguin in the snow",
    "two red apples on a white background",
    "a cactus in the desert",
    "a green triangle above a red square",
    "a pencil sketch of a castle",
)
"""Looked at: with the defaults, most seeds draw what they say."""

ARTICLES = ("a", "an")


def vocabulary(objects: Sequence[str]) -> list[str]:
    """Words and phrases of a model that learned these objects, the most telling first."""
    nouns = [noun for name in objects for noun in OBJECTS[name]]
    said = [
        *nouns,
        *SHAPES,
        *COLOURS,
        *COUNTS.values(),
        *_all(SIZES.values()),
        *_all(SCENES.values()),
        *POSITIONS,
        *_bare(_all(STYLES.values())),
        *_bare([*captions.BESIDE, captions.RIGHT, *captions.ABOVE, captions.BELOW]),
        *_plurals(objects),
        *_bare([*captions.ON_COLOUR, *FILLERS]),
        *ARTICLES,
    ]
    return list(dict.fromkeys(said))


def _all(phrases: Iterable[Sequence[str]]) -> list[str]:
    return [phrase for each in phrases for phrase in each]


def _plurals(objects: Sequence[str]) -> list[str]:
    nouns = [noun for name in objects if not is_uncountable(name) for noun in OBJECTS[name]]
    return [many for noun in [*SHAPES, *nouns] if (many := plural(noun))]


def _bare(forms: Iterable[str]) -> list[str]:
    """Without the places for what is said beside it, and without comma, article and "of" at the ends."""
    return [re.sub(r"^an? | of$", "", " ".join(form.replace("{}", "").strip(" ,").split())) for form in forms]


def objects_on_card(folder: Path) -> list[str]:
    """The objects that a model's README names. Raises ValueError for a noun that the recipe does not know."""
    [nouns] = re.findall(r"^- \d+ objects: (.+)$", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    names = {usual: name for name, (usual, *_) in OBJECTS.items()}
    if strange := [noun for noun in nouns.split(", ") if noun not in names]:
        raise ValueError(f"{folder / 'README.md'} names objects that the recipe does not know: {', '.join(strange)}.")
    return [names[noun] for noun in nouns.split(", ")]


def write(folder: Path, objects: Sequence[str]) -> None:
    """Put the list, and the examples that it covers, into the folder's darkroom.json; what else stands there stays."""
    file, listed = folder / DEFAULTS, vocabulary(objects)
    known = set(" ".join(listed).split())
    entries = json.loads(file.read_text(encoding="utf-8")) | {"vocabulary": listed}
    if drawn := [example for example in EXAMPLES if known.issuperset(example.replace(",", "").split())]:
        entries["examples"] = drawn
    file.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("models/starter"), help="a model with its card")
    folder = parser.parse_args().folder
    objects = objects_on_card(folder)
    write(folder, objects)
    write_manifest(folder)
    print(f"{len(vocabulary(objects))} entries for {len(objects)} objects in {folder / DEFAULTS}")


if __name__ == "__main__":
    main()
