"""What a worker's process serves: a model that draws, a scorer that answers questions, or both.

Knows the settings that say which, and what is announced of each. Refuses to know claims and jobs.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog
import torch

from app.contract.messages.card import ModelCard
from app.contract.messages.model_name import BUNDLED_SCORER, IllegalName, model_name
from app.contract.messages.spec import JUDGED
from worker.adapter_details import AdapterFiles
from worker.engine.engine import Engine
from worker.engine.judging import Judge
from worker.errors import CannotStart
from worker.expectations import Expectations
from worker.families.embedder import Embedder
from worker.models.bundle import Bundle
from worker.models.errors import ModelError
from worker.models.scorer import Scorer, load_scorer
from worker.models.shared_weights import share
from worker.own_thread import OwnThread
from worker.provenance import Provenance
from worker.scoring import SEATS
from worker.settings import WorkerSettings

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Drawing:
    """`engine` draws what `card` promises, in `thread`, where it was warmed up. `provenance` says of its pictures where
    they come from. More is found out about its `adapters` while it draws. `embedder` answers questions about what it
    draws from, if it can."""

    engine: Engine
    card: ModelCard
    thread: OwnThread
    provenance: Provenance
    adapters: AdapterFiles | None = None
    embedder: Embedder | None = None


@dataclass(frozen=True, slots=True)
class Answering:
    """`scorer` answers what `card` promises."""

    scorer: Scorer
    card: ModelCard


@dataclass(frozen=True, slots=True)
class Served:
    """At least one of the two; of a worker with several models, the scorer at most."""

    drawing: Drawing | None
    answering: Answering | None

    @property
    def cards(self) -> list[ModelCard]:
        return [each.card for each in (self.drawing, self.answering) if each is not None]

    @property
    def device(self) -> torch.device | None:
        """Where the worker computes."""
        if self.drawing is not None:
            return self.drawing.engine.device
        return self.answering.scorer.device if self.answering is not None else None


def scorer_alone(settings: WorkerSettings, *, name: str) -> Served:
    """A worker whose model, called `name`, is a scorer. Raises ModelError."""
    scorer = load_scorer(settings.model, name=name, device=settings.device, dtype=settings.dtype)
    return Served(None, Answering(scorer, card_of(scorer, name)))


def scorer_beside(settings: WorkerSettings, *, name: str | None = None) -> Answering | None:
    """The scorer beside a model that draws, called `name`, or beside several; None where there is to be none.

    Raises CannotStart, naming the setting.
    """
    folder = settings.scorer
    if folder is None:
        return None
    if folder == BUNDLED_SCORER and not folder.is_dir():
        # Nobody has asked for it: an installation without the repository has none.
        log.warning("the bundled scorer is not there; questions are not answered", folder=str(folder))
        return None
    try:
        own = model_name(folder)
        scorer = load_scorer(folder, name=own, device=settings.device, dtype=settings.dtype)
    except (IllegalName, ModelError) as error:
        raise CannotStart(f"DARKROOM_SCORER: {error} Or set it to off.") from error
    if own == name:
        raise CannotStart(f"DARKROOM_SCORER has the name of the model, {name}: rename one of the folders.")
    return Answering(scorer, card_of(scorer, own))


def judge_beside(answering: Answering | None, bundle: Bundle) -> Judge | None:
    """Who judges what the model draws. What the scorer and the model have in common lies in memory once from now on:
    CLIP's towers, in Stable Diffusion 1.x."""
    if answering is None:
        return None
    network = answering.scorer.model
    encoders = [part for part in (bundle.text_encoder, bundle.text_encoder_2) if isinstance(part, torch.nn.Module)]
    freed = sum(share(network.text_model, of=encoder) for encoder in encoders)
    freed += share(network.vision_model, of=bundle.checker.model.vision_model) if bundle.checker else 0
    if freed:
        log.info("the scorer shares weights with the model", bytes=freed)
    return Expectations(answering.scorer)


def judged_by(card: ModelCard, answering: Answering | None) -> ModelCard:
    """The card of a model that draws: beside a scorer, its pictures can be judged."""
    if answering is None:
        return card
    return card.model_copy(update={"takes": (*card.takes, *JUDGED), "scorer": answering.card.name})


def card_of(scorer: Scorer, name: str) -> ModelCard:
    """What is announced of a scorer. It draws nothing: what is said of pictures means none."""
    side = scorer.image_size
    return ModelCard(
        name=name,
        family=scorer.family,
        sha256=scorer.sha256,
        tasks=("score", "embed"),
        embedding_dimensions=scorer.dimensions,
        max_prompt_tokens=scorer.max_tokens,
        width=side,
        height=side,
        min_side=side,
        max_side=side,
        side_multiple=side,
        seats=SEATS,
        max_steps=1,
        num_inference_steps=1,
        max_guidance_scale=1.0,
        guidance_scale=0.0,
        classifier_free_guidance=False,
        max_images=1,
        max_work=1,
        scheduler="",
        schedulers=(),
    )
