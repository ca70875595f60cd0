"""The job record, as gateway and worker read it: what the hash in Redis means."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from math import ceil
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.contract.messages import patterns
from app.contract.messages.card import ModelCard
from app.contract.messages.cells import ending
from app.contract.messages.deep_cache import interval_of
from app.contract.messages.events import Status
from app.contract.messages.from_pictures import steps_drawn
from app.contract.messages.kept_spec import read_stored
from app.contract.messages.params import OwedWebhook
from app.contract.messages.questions import Question, Result, Task, cost_of_question, read_question, read_result
from app.contract.messages.spec import JobSpec
from app.contract.messages.trajectory import decoded_frames
from app.contract.messages.urgency import Priority

_ID = re.compile(patterns.WHOLE_JOB_ID)


def new_job_id(cell: str | None = None) -> str:
    """An unguessable id that RQ, a URL and a file name all accept, of a job in a cell."""
    return f"job_{ending(secrets.token_hex(12), cell)}"


def is_job_id(text: str) -> bool:
    """Could this be an id? Asked before Redis is."""
    return _ID.fullmatch(text) is not None


def new_token() -> str:
    """Proof of owning one attempt."""
    return secrets.token_hex(16)


def new_epoch() -> str:
    """A name for one life of a Redis."""
    return secrets.token_hex(8)


MEGAPIXEL = 2**20


DECODE_ROWS = 3
"""A decode costs about as much as so many rows of the denoiser."""


CONTROLNET = 0.35
"""A ControlNet costs each row so much more while it is asked: 283 of 806 GFLOP with one in the shape of SD 1.x."""


OUTER = 0.08
"""A row of the outermost layers costs so much of one of the whole model: 63 of 803 GFLOP in the shape of SD 1.x."""


def cost_of(spec: JobSpec, card: ModelCard | None = None) -> float:
    """What a job takes from the others, in megapixel steps: steps that are drawn x pixels x images x rows of the batch.
    `card` is the model's; without it, one that has guidance.

    Two rows with guidance, one for the prompt and one without it, by a model that does it so, until it ends; what its
    ControlNets take beside each; and what decoding the frames of a trajectory costs. With a cache most evaluations are
    of the outermost layers. All images count that may be drawn, kept or not.
    """
    has_guidance = card is None or card.classifier_free_guidance
    rows = 1 + spec.guidance_end if has_guidance and spec.guidance_scale > 1 else 1
    beside = CONTROLNET * sum(each.end - each.start for each in spec.control if each.scale)
    steps = steps_drawn(spec, card.family if card else "")
    # A prior costs as much as a step or two. The way back to noise is walked through the whole model.
    ways = 2 if spec.start == "inverted" else 1
    interval = interval_of(spec.cache)
    work = ways * steps * rows * (_whole_part(steps, interval) + beside)
    work += DECODE_ROWS * decoded_frames(spec.trajectory, steps)
    return work * spec.width * spec.height * spec.most_drawn / MEGAPIXEL


def _whole_part(steps: float, interval: int) -> float:
    """What a step costs on average, of one of the whole model: the first is whole, and after it one in `interval`,
    which of them the seed says. At most as many as that can be."""
    if interval == 1 or not steps:
        return 1.0
    whole = min(steps, 1 + ceil((steps - 1) / interval))
    return (whole + (steps - whole) * OUTER) / steps


def cost_of_job(spec: JobSpec, question: Question | None, card: ModelCard | None) -> float:
    """The same of a job that may ask a question instead."""
    return cost_of(spec, card) if question is None else cost_of_question(question)


class Sheet(BaseModel):
    """The previews of one picture in one file: frames of width x height pixels, row by row, as many as `steps`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    sha256: str
    bytes: int
    content_type: str
    width: int
    height: int
    columns: int
    steps: tuple[int, ...]
    """After how many model evaluations each was made, in order."""


class StoredFile(BaseModel):
    """A file beside a picture: where its bytes are and how to check them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key: str
    sha256: str
    bytes: int
    content_type: str


class KeptTrajectory(BaseModel):
    """What was kept of the steps of one picture: of how many, and in which files, by their extensions."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    steps: int
    files: dict[str, StoredFile]


class KeptEmbedding(BaseModel):
    """The image embedding that one picture was drawn from: its kind (app/contract/messages/unclip.py), its cosine to
    each text that is part of how it was asked for, and the file with all of these vectors."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: str
    cosine_to: dict[str, float] = {}
    file: StoredFile


class Picture(BaseModel):
    """One finished picture: where its bytes are and how to check them."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    index: int
    key: str
    sha256: str
    seed: int
    width: int
    height: int
    content_type: str
    bytes: int
    previews: Sheet | None = None
    """Kept if the job asked for it, and had any."""
    trajectory: KeptTrajectory | None = None
    at: float | None = None
    """Where it is on a way between two image embeddings."""
    embedding: KeptEmbedding | None = None
    nsfw: bool | None = None
    """The model's safety checker has flagged it; None where it was not asked."""
    score: float | None = None
    """How well it fits what was expected of it, by the job's `selection`; None where nobody judged."""
    probability: float | None = None

    @property
    def files(self) -> list[Picture | Sheet | StoredFile]:
        """The picture itself, and the files beside it."""
        sheet = [self.previews] if self.previews else []
        files = [*self.trajectory.files.values()] if self.trajectory else []
        vectors = [self.embedding.file] if self.embedding else []
        return [self, *sheet, *files, *vectors]

    @property
    def object_keys(self) -> list[str]:
        """Of all of its files."""
        return [file.key for file in self.files]

    @property
    def stored_bytes(self) -> int:
        """That they take together."""
        return sum(file.bytes for file in self.files)


class Candidate(BaseModel):
    """A picture that was drawn to choose from."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    index: int
    seed: int
    score: float | None = Field(description="Mean cosine of the finished picture and the texts, -1 to 1")
    probability: float | None = Field(description="That it fits each of the texts")
    estimated_score: float | None = Field(description="Of the estimate by which the worse half was given up")
    pruned_at: int | None = Field(description="Given up after so many model evaluations, and never finished")
    kept: bool


class Selection(BaseModel):
    """By what the pictures of a job were judged, and all that were drawn to choose from."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    scorer: str = Field(description="The model that judged; scores of different ones cannot be compared")
    scorer_sha256: str
    texts: tuple[str, ...]
    candidates: tuple[Candidate, ...]


class BlockedPicture(BaseModel):
    """A picture that was drawn and is not shown: the model's safety checker flagged it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    index: int
    seed: int


class JobError(BaseModel):
    """Why a job failed. `slug` names a page under /problems/, `detail` speaks to the caller."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    slug: str
    detail: str


class Record(BaseModel):
    """One job. Times are milliseconds of Redis time since the epoch."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    tenant: str
    model: str
    requested_model: str = ""
    """The other name by which its caller asked for the model; empty if it was its own or none."""
    status: Status
    spec: JobSpec
    """What is drawn: no picture at all by a job that asks a `question`."""
    task: Task = "draw"
    question: Question | None = None
    result: Result | None = None
    """The answer to the question, once there is one."""
    attempt: int
    resumed_at_step: int = 0
    """Model evaluations that the present attempt went on from; 0 from its start."""
    created_ms: int
    started_ms: int | None = None
    ended_ms: int | None = None
    expires_ms: int | None = None
    step: int = 0
    steps: int = 0
    stage: str = ""
    """What the model was at when progress was last told: such as its prior. Empty for models without stages."""
    cancel: bool = False
    images: tuple[Picture, ...] = ()
    blocked: tuple[BlockedPicture, ...] = ()
    selection: Selection | None = None
    error: JobError | None = None
    warnings: tuple[str, ...] = ()
    timings: dict[str, float] = {}
    metadata: dict[str, str] = {}
    priority: Priority = "interactive"
    deadline_ms: int | None = None
    """After it was accepted."""
    webhook: OwedWebhook | None = None
    webhook_headers: dict[str, str] = Field(default_factory=dict, repr=False)
    """What its owner wants to be sent along. Often a secret: no view shows it."""
    position: int | None = None
    """How many jobs of the model were claimed before this one when it was read; None if it does not wait."""

    def cost(self, card: ModelCard) -> float:
        """What it takes from the others, by the model of this card."""
        return cost_of_job(self.spec, self.question, card)

    @property
    def due_ms(self) -> int | None:
        """The moment of its deadline."""
        return None if self.deadline_ms is None else self.created_ms + self.deadline_ms

    @property
    def deadline_met(self) -> bool | None:
        """None without a deadline, and for a job of which nobody can say it yet."""
        if self.due_ms is None or not self.status.is_terminal or self.ended_ms is None:
            return None
        return self.status is Status.SUCCEEDED and self.ended_ms <= self.due_ms

    @property
    def object_keys(self) -> list[str]:
        """The key of every object that belongs to the job's result."""
        return [key for picture in self.images for key in picture.object_keys]

    @classmethod
    def from_hash(cls, fields: Mapping[str, str], *, position: int | None = None) -> Record:
        """Read the record's Redis hash (decoded strings). Its place in the queue is not part of it."""
        values: dict[str, Any] = {**fields, "position": position}
        for name in JSON_FIELDS:
            if name in values:
                values[name] = json.loads(values[name])
        values["spec"] = read_stored(fields["spec"])
        if task := fields.get("task"):
            values["question"] = read_question(task, values["question"])
            values["result"] = read_result(task, values["result"]) if "result" in values else None
        return cls.model_validate(values)


JSON_FIELDS = (
    "images", "blocked", "error", "warnings", "timings", "metadata", "webhook", "webhook_headers", "question", "result",
    "selection",
)  # fmt: skip
"""Fields of the hash that hold JSON, as the spec does; the others are plain strings and numbers."""
