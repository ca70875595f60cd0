"""Which sizes a model draws, how much of them, and what would do in the place of what does not.

Knows a model's card. Refuses to know how a request says a size.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

from app.contract.messages.card import ModelCard
from app.contract.messages.from_pictures import steps_drawn
from app.contract.messages.parameter import Fault
from app.contract.messages.spec import JobSpec, place_of

MOST_IN_A_RATIO = 99
"""In `aspect_ratio` are numbers of two digits."""

OF_WORK = frozenset(
    f"/{name}"
    for name in ("width", "height", "aspect_ratio", "num_inference_steps", "num_images", "best_of", "min_probability")
)
"""Where the numbers stand of which a job's work is made. One that is refused is told first."""


def unfit_sides(spec: JobSpec, card: ModelCard, *, by_ratio: bool) -> Iterator[Fault]:
    """Sides that the model does not draw. `by_ratio`: they come of an aspect ratio, and are nobody's words."""
    sides = {"width": spec.width, "height": spec.height}
    fits = {name: card.min_side <= side <= card.max_side for name, side in sides.items()}
    if by_ratio and not all(fits.values()):
        yield "/aspect_ratio", "out_of_range", _unfit_ratio(spec, card)
        return
    for name, side in sides.items():
        if not fits[name]:
            detail = f"must be {card.min_side} to {card.max_side} pixels; {_nearest(side, card)} will do"
            yield f"/{name}", "out_of_range", detail
        elif side % card.side_multiple:
            detail = f"must be a multiple of {card.side_multiple}; {_nearest(side, card)} will do"
            yield f"/{name}", "not_a_multiple", detail


def too_much_work(spec: JobSpec, card: ModelCard) -> Iterator[Fault]:
    """More pixels, pictures and steps than the model draws in one job, each of which it would draw (OF_WORK)."""
    work = spec.width * spec.height * spec.most_drawn * spec.num_inference_steps
    if work > card.max_work:
        drawn = "num_images" if spec.most_drawn == spec.num_images else "images that may be drawn"
        smaller = " or ".join(_smaller(spec, card, work))
        detail = f"width x height x {drawn} x steps is {work}; at most {card.max_work}"
        yield "", "too_much_work", f"{detail}: {smaller} will do" if smaller else detail


def _nearest(side: int, card: ModelCard) -> str:
    """The sides below and above that the model draws, or the only one."""
    unit = card.side_multiple
    least, most = math.ceil(card.min_side / unit) * unit, card.max_side // unit * unit
    below = side // unit * unit
    fit = {min(max(each, least), most) for each in (below, below + unit)}
    return " or ".join(map(str, sorted(fit)))


def _unfit_ratio(spec: JobSpec, card: ModelCard) -> str:
    """The sides are those of the model's own area: the ratio says how far they are from its square."""
    area = card.width * card.height
    widest = Fraction(int(10 * min(card.max_side**2 / area, area / card.min_side**2)), 10)
    if widest.numerator > MOST_IN_A_RATIO:
        widest = Fraction(int(widest))
    across, down = widest.numerator, widest.denominator
    sides = f"{spec.width} x {spec.height} pixels, and sides must be {card.min_side} to {card.max_side}"
    return f"comes to {sides}; {down}:{across} to {across}:{down} will do"


def _smaller(spec: JobSpec, card: ModelCard, work: int) -> Iterator[str]:
    """What could be less, one of them, so that the whole is no more than the model's."""
    most = card.max_work
    steps, images = spec.num_inference_steps * most // work, spec.num_images * most // work
    refused = card.scheduler_refused_steps.get(spec.scheduler, ())
    fewer = spec.model_copy(update={"num_inference_steps": steps})
    is_enough = steps >= card.scheduler_min_steps.get(spec.scheduler, 1) and steps_drawn(fewer, card.family) > 0
    if is_enough and steps not in refused:
        yield f"num_inference_steps {steps}"
    # Of a way there is one for each place.
    if images and spec.most_drawn == spec.num_images and place_of(spec, 0) is None:
        yield f"num_images {images}"
    unit = card.side_multiple
    width, height = (math.isqrt(side * side * most // work) // unit * unit for side in (spec.width, spec.height))
    if min(width, height) >= card.min_side:
        yield f"{width} x {height} pixels"
