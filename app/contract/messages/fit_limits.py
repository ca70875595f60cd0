"""Which numbers and names of a request lie beyond a model's limits, and what there is in the place of an unknown name.

Knows a model's card. Refuses to know pictures and sides: those are from_pictures' and fit_sides'.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from app.contract.messages.a1111_syntax import MOST_WEIGHT, heaviest
from app.contract.messages.card import ModelCard
from app.contract.messages.parameter import Fault
from app.contract.messages.schedulers import canonical, nearest
from app.contract.messages.series import broken_series
from app.contract.messages.spec import MAX_SEED, JobSpec
from app.contract.messages.trajectory import MOST_PICTURES

MOST_NAMED = 12
"""Names in a refusal."""


def beyond_limits(spec: JobSpec, card: ModelCard) -> Iterator[Fault]:
    """Every number that is too large or too small for the model, and every name that it does not know."""
    yield from _broken_steps(spec, card)
    if spec.guidance_scale > card.max_guidance_scale:
        yield "/guidance_scale", "out_of_range", f"must be 0 to {card.max_guidance_scale:g}"
    if card.max_clip_skip is not None and (spec.clip_skip or 0) > card.max_clip_skip:
        yield "/clip_skip", "out_of_range", f"must be at most {card.max_clip_skip} with this model"
    for name, prompt in (("prompt", spec.prompt), ("negative_prompt", spec.negative_prompt or "")):
        if spec.prompt_syntax == "a1111" and heaviest(prompt) > MOST_WEIGHT:
            yield f"/{name}", "out_of_range", f"weighs words by more than {MOST_WEIGHT:g}"
    yield from broken_series(spec, max_images=card.max_images)
    if spec.seed + spec.most_drawn - 1 > MAX_SEED:
        yield "/seed", "out_of_range", "seed + num_images must stay below 2^63"
    if spec.scheduler not in card.schedulers:
        yield "/scheduler", "unknown", _no_such_scheduler(spec.scheduler, card)
    yield from _broken_controls(spec, card)
    known = [each.name for each in card.loras]
    for at, lora in enumerate(spec.loras):
        if lora.name not in known:
            yield f"/loras/{at}/name", "unknown", _no_such(lora.name, known, "LoRAs")
    if spec.output_format == "png" and spec.output_quality not in (None, 100):
        yield "/output_quality", "no_quality", "must be 100 with png, which loses nothing"
    if spec.keep_previews and not spec.preview_every:
        yield "/keep_previews", "no_previews", "needs preview_every: after how many evaluations each is made"
    if spec.trajectory is not None and spec.most_drawn > MOST_PICTURES:
        detail = f"takes 1 to {MOST_PICTURES} pictures that may be drawn: all steps are kept"
        yield "/trajectory", "too_many", detail


def _broken_steps(spec: JobSpec, card: ModelCard) -> Iterator[Fault]:
    steps = spec.num_inference_steps
    fewest = card.scheduler_min_steps.get(spec.scheduler, 1)
    most = min(card.max_steps, card.scheduler_max_steps.get(spec.scheduler, card.max_steps))
    refused = card.scheduler_refused_steps.get(spec.scheduler, ())
    if not fewest <= steps <= most:
        of_all = (fewest, most) == (1, card.max_steps)
        whose = "" if of_all else f" with the scheduler {spec.scheduler}"
        yield "/num_inference_steps", "out_of_range", f"must be {fewest} to {most}{whose}"
    elif steps in refused:
        fit = sorted(set(range(fewest, most + 1)) - set(refused), key=lambda other: abs(other - steps))[:2]
        others = " or ".join(map(str, sorted(fit)))
        detail = f"is a number of steps that {spec.scheduler} cannot take with this model; {others} will do"
        yield "/num_inference_steps", "out_of_range", detail


def _broken_controls(spec: JobSpec, card: ModelCard) -> Iterator[Fault]:
    known = [each.name for each in card.controls]
    for at, each in enumerate(spec.control):
        if each.model not in known:
            yield f"/control/{at}/model", "unknown", _no_such(each.model, known, "ControlNets")
    if len({each.model for each in spec.control}) > card.max_controls:
        detail = f"names more ControlNets than {card.name} uses at once: {card.max_controls}"
        yield "/control", "too_many", detail


def _no_such_scheduler(name: str, card: ModelCard) -> str:
    if canonical(name):
        return f"does not work with this model; its default is {card.scheduler}"
    close = " or ".join(nearest(name, card.schedulers))
    return f"is unknown; did you mean {close}?" if close else f"is unknown; {card.scheduler} is this model's default"


def _no_such(name: str, known: Sequence[str], what: str) -> str:
    """The likeliest that was meant, or what there is."""
    written = {other.casefold(): other for other in known}
    if close := difflib.get_close_matches(name.strip().casefold(), written, n=3, cutoff=0.5):
        return f"is unknown; did you mean {' or '.join(written[other] for other in close)}?"
    return f"is unknown; {what} of this model: {', '.join(known[:MOST_NAMED])}{', …' * (len(known) > MOST_NAMED)}"
