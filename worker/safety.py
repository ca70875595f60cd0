"""What becomes of pictures that the model's safety checker flags: nothing, a mark, or they are not shown.

Knows the engine's events and DARKROOM_SAFETY. Refuses to know how a picture is judged (worker/models/safety.py), and
where pictures go.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from app.contract.messages.card import Safety
from app.contract.messages.spec import JobSpec
from worker.engine.errors import ContentBlocked
from worker.engine.events import DrawnImage, Failed, Finished

News = TypeVar("News")

NO_PREVIEWS = "There are no previews: the model's safety checker looks at finished pictures only."
NO_TRAJECTORY = "There is no trajectory: the model's safety checker looks at finished pictures only."


def watched(spec: JobSpec, safety: Safety) -> JobSpec:
    """What is drawn. Where flagged pictures are not shown, nothing is shown that nobody has looked at."""
    unseen = {"preview_every": 0, "keep_previews": False, "trajectory": None}
    return spec.model_copy(update=unseen) if safety == "block" else spec


def judged(event: News, spec: JobSpec, safety: Safety) -> News | Finished | Failed:
    """The event as whoever asked for the job may hear of it: without flagged pictures where those are not shown, and
    the failure of the job where none is left."""
    if safety == "off" or not isinstance(event, Finished):
        return event
    if safety == "flag":
        flagged = [image for image in event.images if image.nsfw]
        said = [f"The model's safety checker flagged {_named(flagged)}."] if flagged else []
        return replace(event, warnings=[*event.warnings, *said])
    # Not "unless it is flagged": what nobody has looked at is not shown either.
    shown = [image for image in event.images if image.nsfw is False]
    others = [image for image in event.images if image not in shown]
    blocked = [(image.index, image.seed) for image in others]
    if not shown:
        return Failed(event.request_id, ContentBlocked(_nothing_left(len(others))), blocked, event.work)
    said = [f"NSFW content detected, and not shown: {_named(others)}."] if others else []
    said += [NO_PREVIEWS] * bool(spec.preview_every) + [NO_TRAJECTORY] * (spec.trajectory is not None)
    return replace(event, images=shown, blocked=blocked, warnings=[*event.warnings, *said])


def _nothing_left(pictures: int) -> str:
    which = "the picture" if pictures == 1 else f"all {pictures} pictures"
    return (
        f"NSFW content detected: the model's safety checker flagged {which}, and this service does not show such. "
        "Try another seed or another prompt."
    )


def _named(images: Sequence[DrawnImage]) -> str:
    """By their numbers in the job: "picture 2", "pictures 0, 1 and 3"."""
    numbers = [str(image.index) for image in images]
    if len(numbers) == 1:
        return f"picture {numbers[0]}"
    return f"pictures {', '.join(numbers[:-1])} and {numbers[-1]}"
