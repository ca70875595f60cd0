"""How many pictures a job draws, and of how many it keeps the best.

Parameters as in spec.py. Refuses to know how well a picture fits: workers judge.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final

from pydantic import Field

from app.contract.messages.parameter import Fault, Parameter, Spec
from app.contract.messages.texts import VISIBLE, Text

_AskedTexts = Annotated[list[Annotated[Text, VISIBLE]], Field(min_length=1, max_length=32)]

REDRAWN: Final = 2
"""Times as many pictures as are wanted are drawn again at most, where they fit too badly."""


def most_drawn(num_images: int, best_of: int | None, min_probability: float | None) -> int:
    """Pictures that may be drawn to find so many: what the job is let in for and costs."""
    again = 0 if min_probability is None else REDRAWN * num_images
    return (num_images if best_of is None else best_of) + again


class SeriesSpec(Spec):
    """How many pictures, and of how many they are the best."""

    num_images: Annotated[int, Parameter(default=1, least=1, most=1_000)]
    best_of: Annotated[
        int | None,
        Parameter(
            about="Draw so many, and keep the num_images that fit `expect` best, else the prompt",
            least=1,
            most=1_000,
            announced=True,
        ),
    ] = None
    expect: Annotated[
        tuple[str, ...],
        Parameter(about="What the pictures are scored by", asked=_AskedTexts | None, announced=True),
    ] = ()
    min_probability: Annotated[
        float | None,
        Parameter(
            about="A picture that fits `expect` with less is drawn again from another seed, a few times at most",
            least=0,
            most=1,
            announced=True,
        ),
    ] = None

    @property
    def drawn(self) -> int:
        """Pictures that are drawn to begin with."""
        return self.num_images if self.best_of is None else self.best_of

    @property
    def most_drawn(self) -> int:
        """With those that may be drawn again."""
        return most_drawn(self.num_images, self.best_of, self.min_probability)

    @property
    def is_judged(self) -> bool:
        """Somebody says how well its pictures fit."""
        return self.best_of is not None or bool(self.expect) or self.min_probability is not None


def broken_series(spec: SeriesSpec, *, max_images: int) -> Iterator[Fault]:
    """Each number of pictures that is too large or too small. `max_images` is the model's, of all that may be drawn."""
    if spec.num_images > max_images:
        yield "/num_images", "out_of_range", f"must be 1 to {max_images}"
    elif spec.drawn > max_images:
        yield "/best_of", "out_of_range", f"must be {spec.num_images} to {max_images}"
    elif spec.most_drawn > max_images:
        detail = f"may draw each picture {REDRAWN} times again, and so {spec.most_drawn}; at most {max_images}"
        yield "/min_probability", "out_of_range", detail
    if spec.drawn < spec.num_images:
        yield "/best_of", "out_of_range", f"must be at least num_images, {spec.num_images}"
