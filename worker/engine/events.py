"""What the engine says about a request. It says it to whoever calls `Engine.step`, and knows no listener.

A submitted request gets Started, Progress, Preview and SnapshotTaken at most, and exactly one of Finished, Failed,
Stopped and Parked. `work` of these is what it took, complete when the step that ends it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from app.contract.messages.usage import Work
from worker.engine.errors import EngineError
from worker.engine.recording import NOTHING_KEPT, Recordings
from worker.engine.snapshot import Snapshot

StageName = Literal["encode", "denoise", "decode"]
STAGES: tuple[StageName, ...] = get_args(StageName)


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds spent in the stages that worked on a request, shared batches counted in full; `wall` since submit."""

    encode: float
    denoise: float
    decode: float
    wall: float


@dataclass(frozen=True, slots=True)
class Started:
    """The first sample of the request has taken a seat. `resumed_at`: so many model evaluations each of its samples has
    behind it already, from a snapshot that fits; `resumed`: so many all of them together."""

    request_id: str
    resumed_at: int = 0
    resumed: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """The slowest sample has taken `step` of `steps` model evaluations (some schedulers need more than one a step), and
    is in the pass of that `stage`, where passes have names."""

    request_id: str
    step: int
    steps: int
    stage: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """What picture `index` will look like as the model sees it after `step` of `steps` evaluations: uint8 [h, w, 3],
    smaller than the picture."""

    request_id: str
    index: int
    step: int
    steps: int
    picture: np.ndarray


@dataclass(frozen=True, slots=True, eq=False)
class DrawnImage:
    """A picture, uint8 [height, width, 3], with the seed that draws it again, and its place in the job.

    `is_rescued`: it was drawn again in float32. `score`, `probability`: how well it fits what is expected of it, where
    that was asked. `nsfw`: the model's safety checker has flagged it; None where it was not asked. `found`: vectors,
    float32 [n] each, that belong to its record. `recordings`: what was kept of it on the way.
    """

    pixels: np.ndarray
    _: KW_ONLY
    seed: int
    index: int
    is_rescued: bool = False
    score: float | None = None
    probability: float | None = None
    nsfw: bool | None = None
    found: Mapping[str, np.ndarray] = field(default_factory=dict)
    recordings: Recordings = NOTHING_KEPT


@dataclass(frozen=True, slots=True)
class Candidate:
    """A picture that was drawn to choose from. `estimated_score`: what its estimate was worth when the worse half went;
    `pruned_at`: after so many model evaluations it was one of those, and was never finished."""

    index: int
    seed: int
    score: float | None
    probability: float | None
    estimated_score: float | None
    pruned_at: int | None
    kept: bool


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """All images of the request. `solver`: class and configuration of the scheduler, as JSON has it; `drawn_with`: the
    files beside the model's, by what they are. `blocked`: index and seed of those that are not shown, where somebody
    has taken them out. `candidates`: all that were drawn, where the best were to be kept; `images` are those then, the
    best first. `judged_by`: who judged, and by what."""

    request_id: str
    images: Sequence[DrawnImage]
    steps: int
    timings: Timings
    warnings: list[str]
    solver: Mapping[str, Any] = field(default_factory=dict)
    drawn_with: Mapping[str, Any] = field(default_factory=dict)
    blocked: Sequence[tuple[int, int]] = ()
    candidates: Sequence[Candidate] = ()
    judged_by: Mapping[str, Any] = field(default_factory=dict)
    work: Work = field(default_factory=Work)

    @property
    def pictures(self) -> list[np.ndarray]:
        """The pixels alone."""
        return [image.pixels for image in self.images]


@dataclass(frozen=True, slots=True)
class Failed:
    """`blocked`: index and seed of pictures that were finished and are not shown."""

    request_id: str
    error: EngineError
    blocked: Sequence[tuple[int, int]] = ()
    work: Work = field(default_factory=Work, compare=False)


@dataclass(frozen=True, slots=True)
class Stopped:
    """The request was canceled before it was over."""

    request_id: str
    work: Work = field(default_factory=Work, compare=False)


@dataclass(frozen=True, slots=True)
class Parked:
    """The request has left the engine, as was asked, and can go on from its `snapshot`; None where it has nothing to go
    on from, or what there is cannot be kept."""

    request_id: str
    snapshot: Snapshot | None
    work: Work = field(default_factory=Work, compare=False)


@dataclass(frozen=True, slots=True)
class SnapshotTaken:
    """What the request was made of a moment ago. It goes on."""

    request_id: str
    snapshot: Snapshot


LastEvent = Finished | Failed | Stopped | Parked
EngineEvent = Started | Progress | Preview | SnapshotTaken | LastEvent
