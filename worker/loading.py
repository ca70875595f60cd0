"""From the settings to what a worker serves: folders are loaded, the engine is warmed up, schedulers are tried.

Knows the order of a start, and how long it may take. Knows no queue and no job.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import structlog
import torch

from worker.adapter_details import AdapterFiles
from worker.engine.engine import Engine
from worker.engine.profile import Told
from worker.errors import CannotStart
from worker.families.choose import family_of
from worker.families.embedder import embedder_of
from worker.model_folders import ModelFolders
from worker.models.announced import describe
from worker.models.bundle import Bundle, load
from worker.models.scorer_folder import is_scorer
from worker.own_thread import OwnThread
from worker.profiles import start_engine
from worker.provenance import provenance_of
from worker.served import Answering, Drawing, Served, judge_beside, judged_by, scorer_alone, scorer_beside
from worker.settings import WorkerSettings
from worker.starting import Starting
from worker.trials import tried_schedulers
from worker.watchdog import ends_within

log = structlog.get_logger()

WARM_UP_SECONDS = 600.0
"""For each size that is measured or compiled: one step of a large model on a slow CPU takes minutes, and so does a
compile."""


def start(settings: WorkerSettings, name: str, starting: Starting) -> Served:
    """What the settings name, ready to work. `name` is the model's. Raises ModelError, CannotStart."""
    if is_scorer(settings.model):
        starting.say("loading the scorer")
        return scorer_alone(settings, name=name)
    # First: the memory that it takes is not there for pictures.
    answering = scorer_beside(settings, name=name)
    return Served(open_drawing(settings, name, starting, answering=answering, thread=OwnThread("engine")), answering)


def start_with_several(settings: WorkerSettings, starting: Starting) -> tuple[Served, ModelFolders]:
    """The scorer, and the folders of which one after the other will be in memory. Raises ModelError, CannotStart."""
    starting.say("loading the scorer")
    answering = scorer_beside(settings)
    folders = ModelFolders(settings, taken=frozenset({answering.card.name} if answering else ()))
    starting.say("looking at the folders")
    if not folders.look():
        paths = ", ".join(map(str, settings.models))
        reasons = " ".join(folders.faults) or "put folders in the diffusers layout there."
        raise CannotStart(f"DARKROOM_MODELS: no model in {paths} can be served: {reasons}")
    return Served(None, answering), folders


def open_drawing(
    settings: WorkerSettings, name: str, starting: Starting, *, answering: Answering | None, thread: OwnThread
) -> Drawing:
    """The model of the settings in memory, warmed up in `thread`. `answering` judges what it draws.

    Raises ModelError.
    """
    starting.say("loading the model")
    bundle = _load(settings, name)
    judge, family = judge_beside(answering, bundle), thread.wait_for(partial(family_of, bundle))
    engine = _warm_engine(partial(start_engine, bundle, family, settings, judge=judge), starting, thread)
    limits = tried_schedulers(bundle, settings.profile_folder)
    largest = engine.costs.largest
    card = describe(bundle, seats=settings.seats, largest=largest, limits=limits, safety=settings.safety)
    weights = provenance_of(bundle, is_compiled=engine.is_compiled)
    adapters, embedder = AdapterFiles.of(bundle), embedder_of(bundle, family)
    return Drawing(engine, judged_by(card, answering), thread, weights, adapters, embedder)


def _warm_engine(start: Callable[..., Engine], starting: Starting, thread: OwnThread) -> Engine:
    """Warmed up in the thread that it will step in."""
    starting.say("warming up")
    with ends_within(WARM_UP_SECONDS, what="warming up") as deadline:

        def further(say: Callable[[int], None], rows: int) -> None:
            deadline.begin_again()
            say(rows)

        told = Told(partial(further, starting.measured), partial(further, starting.compiling))
        return thread.wait_for(partial(start, told=told))


def _load(settings: WorkerSettings, name: str) -> Bundle:
    started = time.monotonic()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    bundle = load(
        settings.model,
        name=name,
        device=settings.device,
        dtype=settings.dtype,
        channels_last=settings.channels_last,
        controlnets=settings.kept_controlnets(),
        vae=settings.vae,
        prior=settings.prior,
        loras=settings.loras,
        embeddings=settings.embeddings,
        safety=settings.safety,
    )
    log.info("model loaded", model=bundle.name, seconds=round(time.monotonic() - started, 2))
    return bundle
