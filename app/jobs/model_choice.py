"""Which model is meant: by its name, by another name that the operator gave it, or by none at all.

Knows the model registry, aliases, the default, and which task a model is there for. Refuses to know what else is asked
of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

from app.contract.messages.params import ParamError, ParamsRejected
from app.contract.messages.question_requests import task_unknown
from app.contract.messages.questions import Task
from app.contract.messages.served import Pause, ServedModel
from app.edge.errors import ModelAway, ModelPaused, NoModelYet
from app.jobs.model_registry import ModelRegistry, retry_after
from app.jobs.schemas import timestamp

RESTART_SECONDS = 120.0
"""A model that nobody has served for longer than this is away, not restarting. On two cores that eight other programs
wanted too, the bundled model was back 70 and 82 s after its worker had been told to end."""

AWAY_RETRY_SECONDS = 30
"""Nobody knows when a worker comes. Clients that try again by themselves do so two or three times."""

WORKER_START_SECONDS = 5
"""A worker announces its model a few seconds after its start: that is when to ask again."""


class ModelChoice:
    """The models of the registry under all their names. Methods raise redis.RedisError as it does.

    `aliases` are further names of models that the settings give, `default` the one that the operator prefers.
    """

    def __init__(self, registry: ModelRegistry, *, aliases: Mapping[str, str], default: str | None = None) -> None:
        self._registry = registry
        self._settings = aliases
        self._default = default

    async def named(self, name: str) -> ServedModel | None:
        """The model of this name."""
        models = await self._registry.models()
        if (own := self._own(name, models)) not in models:
            models = await self._registry.look_again()
            own = self._own(name, models)
        return models.get(own)

    async def is_alias(self, name: str) -> bool:
        """Whether it is another name of a model, served or not."""
        return name in self._aliases(await self._registry.models())

    async def names(self, task: Task | None = None) -> list[str]:
        """Everything a request may name: the models, then the aliases that lead to one. With a task: for that."""
        return self._names(await self._registry.models(), task)

    def _names(self, known: Mapping[str, ServedModel], task: Task | None) -> list[str]:
        aliases, models = self._aliases(known), for_task(known, task)
        own = [name for name in models if name not in aliases]
        return own + [alias for alias, target in aliases.items() if target in models]

    def _aliases(self, models: Mapping[str, ServedModel]) -> Mapping[str, str]:
        """Those of the settings go before models, since what was written down does not change with what workers
        announce; those that were given while the service ran go behind them, since they were not to hide one."""
        given = {alias: model for alias, model in self._registry.aliases.items() if alias not in models}
        return {**given, **self._settings}

    def _own(self, name: str, models: Mapping[str, ServedModel]) -> str:
        return self._aliases(models).get(name, name)

    async def default(self, task: Task = "draw") -> ServedModel | None:
        """The model of requests that name none; None where nobody can tell."""
        # The operator's word is about pictures.
        if task != "draw" or self._default is None:
            return by_default(for_task(await self._registry.models(), task), None)
        # So that a default which is not there is looked for anew.
        await self.named(self._default)
        models = await self._registry.models()
        return by_default(for_task(models, task), self._own(self._default, models))

    async def choose(self, name: str | None, task: Task = "draw") -> ServedModel:
        """The model that a request means. Raises ParamsRejected, naming what is served, or NoModelYet."""
        models = await self._registry.models()
        found = await (self.default(task) if name is None else self.named(name))
        if found is None or found.away_seconds > RESTART_SECONDS or (found.paused and not found.paused.accepts):
            # Nobody is refused from memory: another gateway may have shown the caller a worker.
            models = await self._registry.look_again()
            found = await (self.default(task) if name is None else self.named(name))
        if found is None:
            self._refuse(name, task, models)
        if not found.card.does(task):
            raise ParamsRejected([ParamError("/model", "task_unknown", task_unknown(found.card, task))])
        return found

    def _refuse(self, name: str | None, task: Task, models: Mapping[str, ServedModel]) -> NoReturn:
        if not for_task(models, task):
            raise _no_model_yet(task if models else "draw")
        listed = ", ".join(self._names(models, task))
        if name is not None and (target := self._aliases(models).get(name)):
            code, detail = "model_unknown", f"is another name of {target}, which is not served here"
        elif name is not None:
            code, detail = "model_unknown", "is not served here"
        elif self._default and task == "draw":
            preferred = self._own(self._default, models)
            detail = f"No worker has announced {preferred} yet, the model of requests that name none."
            raise NoModelYet(detail, retry_after=WORKER_START_SECONDS)
        else:
            raise ParamsRejected([ParamError("/model", "model_missing", f"name one of the models: {listed}")])
        raise ParamsRejected([ParamError("/model", code, f"{detail}; the models are: {listed}")])


def for_task(models: Mapping[str, ServedModel], task: Task | None) -> Mapping[str, ServedModel]:
    """Those that a task may be asked of. For one that draws nothing, models that are there for nothing else come before
    those that draw as well."""
    fit = {name: model for name, model in models.items() if task is None or model.card.does(task)}
    special = {name: model for name, model in fit.items() if not model.card.draws}
    return special if special and task not in (None, "draw") else fit


def _no_model_yet(task: Task) -> NoModelYet:
    if task == "draw":
        detail = "No worker has announced a model yet. Start one, or wait until it has loaded its model."
    else:
        detail = f"No worker has announced a model that can {task}: DARKROOM_SCORER of a worker names one."
    return NoModelYet(detail, retry_after=WORKER_START_SECONDS)


def by_default(models: Mapping[str, ServedModel], default: str | None) -> ServedModel | None:
    """The default while it is served or restarts; else the only model that has a worker; else the default; else, if
    none has a worker, the one that was served last. None if there are several and no default, or if the default was
    never announced: it is about to be."""
    preferred = models.get(default) if default else None
    if preferred is not None and preferred.away_seconds <= RESTART_SECONDS:
        return preferred
    awake = [model for model in models.values() if model.workers]
    if len(awake) == 1:
        return awake[0]
    if default or awake:
        return preferred
    return max(models.values(), key=lambda model: model.seen_ms, default=None)


def absence(name: str, model: ServedModel | None) -> str | None:
    """What is said of a job that waits for this model, None if that was forgotten. None while it is drawn."""
    if model is not None and model.paused is not None:
        return f"{pause_of(model.card.name, model.paused)}; the job waits."
    if model is not None and model.workers:
        return None
    since = f" since {timestamp(model.seen_ms)}" if model else ""
    return f"No worker serves {name}{since}; the job waits until one does."


def pause_of(name: str, pause: Pause) -> str:
    """What callers are told of it."""
    ends = f" until {timestamp(pause.until_ms)}" if pause.until_ms else ""
    why = f" ({pause.reason})" if pause.reason else ""
    return f"The operator has paused {name}{why} since {timestamp(pause.since_ms)}{ends}"


def refuse_if_closed(model: ServedModel) -> None:
    """Raises ModelPaused where the operator lets no further job in."""
    if model.paused is not None and not model.paused.accepts:
        raise _paused(model.card.name, model.paused, "takes no jobs")


def refuse_if_away(model: ServedModel) -> None:
    """For callers who hold a connection and see nothing meanwhile. Raises ModelAway after RESTART_SECONDS, and
    ModelPaused unless the pause ends within that time."""
    if model.away_seconds > RESTART_SECONDS:
        since = timestamp(model.seen_ms)
        raise ModelAway(f"No worker serves {model.card.name} since {since}.", retry_after=AWAY_RETRY_SECONDS)
    if model.paused is not None and _lasts(model.paused):
        raise _paused(model.card.name, model.paused, "lets jobs wait")


def _lasts(pause: Pause) -> bool:
    return pause.left_seconds is None or pause.left_seconds > RESTART_SECONDS


def _paused(name: str, pause: Pause, meanwhile: str) -> ModelPaused:
    ends_in = AWAY_RETRY_SECONDS if pause.left_seconds is None else retry_after(pause.left_seconds)
    return ModelPaused(f"{pause_of(name, pause)}, and {meanwhile} meanwhile.", retry_after=ends_in)
