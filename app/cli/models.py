"""`darkroom models`: what a running service serves, as a table or as the JSON of GET /v1/models; and its forgetting,
which is the operator's and goes to the service's own Redis.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis.asyncio
from rich.text import Text

from app.cli.client import CommandError, Service, converse
from app.cli.exits import FAILED, OK, REFUSED
from app.cli.keys import with_redis
from app.cli.plain import plain
from app.cli.tables import paper, print_facts, print_table
from app.cli.words import hint
from app.contract.messages.audit import Change, Operator
from app.contract.messages.card import NOT_DRAWING
from app.contract.redis.operations import Operations
from app.contract.redis.store import JobStore

MOST_EXAMPLES = 3

NOBODY = (
    "no worker serves a model now; start the service anew (`darkroom up`), or with a Redis of your own "
    "`darkroom worker`"
)

COLUMNS = (
    "model", "state", "workers", "waiting", "size", "steps", "guidance", "scheduler", "seats", "seconds a job", "tasks",
)  # fmt: skip

REASONS = {
    "awake": "has {} worker(s) that were heard of lately: stop them first",
    "queued": "has {} job(s) that wait for it: start a worker, or call them off with --cancel-jobs",
    "running": "has {} job(s) that a worker may still be drawing: try again in a minute",
}


def show_models(*, url: str, api_key: str | None, as_json: bool) -> int:
    """Print them. Returns the exit code, 0 when at least one is ready."""

    async def work(service: Service) -> int:
        served = await service.models()
        if as_json:
            print(json.dumps({"object": "list", "data": served}, indent=2))
        elif served:
            _print(served)
            for lines in _examples(served):
                # To be pasted: not broken where the screen ends.
                paper().print(lines, soft_wrap=True)
        if any(model["state"] == "ready" for model in served):
            return OK
        print(f"darkroom models: {NOBODY}", file=sys.stderr)
        return FAILED

    return converse("models", url, api_key, work)


def show_model(name: str | None, *, url: str, api_key: str | None, as_json: bool) -> int:
    """Print everything about a model; about the default one without a name. Returns the exit code."""

    async def work(service: Service) -> int:
        served = await service.models()
        found = [model for model in served if (model["id"] == name if name else model.get("default"))]
        if not found:
            unknown = f"{name} is not served here" if name else "no model is meant by a request without a name"
            more = hint(name or "", [model["id"] for model in served]) or "; `darkroom models` shows what is"
            raise CommandError(f"{unknown}{more}", REFUSED)
        if as_json:
            print(json.dumps(found[0], indent=2))
        else:
            print_facts([(label, _fact(value)) for label, value in found[0].items() if value not in (None, "", [], {})])
        return OK

    return converse("models", url, api_key, work)


def _fact(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_adapter(each) if isinstance(each, dict) else str(each) for each in value)
    return ", ".join(f"{name} {each}" for name, each in value.items()) if isinstance(value, dict) else str(value)


def _adapter(given: dict[str, Any]) -> str:
    """A LoRA or a ControlNet: its name, and what to write in a prompt for it."""
    words = given.get("words") or []
    return f"{given.get('name')} ({', '.join(map(str, words))})" if words else str(given.get("name"))


def forget_model(name: str, *, cancel_jobs: bool, data: Path) -> int:
    """Take a model that nobody serves off every list. Returns the exit code; refused while it has workers or jobs."""

    async def work(client: redis.asyncio.Redis) -> int:
        store = JobStore(client)
        known, aliases = await store.models.all(), await store.models.aliases()
        if name not in known and name in aliases:
            remedy = f"`darkroom models alias {name} --remove` takes it back"
            print(f"darkroom models: {name} is another name of {aliases[name]}; {remedy}", file=sys.stderr)
            return REFUSED
        if name not in known:
            more = hint(name, known) or "; `darkroom models list` shows them"
            print(f"darkroom models: there is no such model{more}", file=sys.stderr)
            return REFUSED
        line = Change.by(Operator(), "models forget", name, "forgotten").line()
        outcome, count = await store.models.forget(name, line=line)
        if outcome == "queued" and cancel_jobs:
            operations = Operations(client)
            begun = await operations.begin(Change.by(Operator(), "cancel", f"jobs of {name}", f"begun: {count} jobs"))
            canceled = await store.cancel_waiting(name)
            await operations.end(begun, f"{canceled} canceled" if canceled else "")
            print(f"canceled {canceled} of its jobs")
            outcome, count = await store.models.forget(name, line=line)
        # "missing" by now: forgotten by this very call, whose answer was lost, or by somebody beside us.
        if outcome in ("forgotten", "missing"):
            print(f"{name} is forgotten; a worker that serves it brings it back")
            if leading := [alias for alias, model in aliases.items() if model == name]:
                print(f"until then these names of it lead nowhere: {', '.join(leading)}", file=sys.stderr)
            return OK
        print(f"darkroom models: {name} {REASONS[outcome].format(count)}", file=sys.stderr)
        return REFUSED

    return with_redis("models", data, work)


def _examples(models: list[dict[str, Any]]) -> Iterator[Text]:
    """A few prompts that each model draws well, as something to paste. Older services name none."""
    for model in models:
        if model.get("examples") and not model.get("alias_of"):
            named = "" if model.get("default") else f" --model {plain(model['id'])}"
            prompts = [shlex.quote(plain(each)) for each in model["examples"][:MOST_EXAMPLES]]
            commands = [f"darkroom generate {prompt}{named}" for prompt in prompts]
            yield Text("\n  ".join([f"\n{plain(model['id'])} draws well, for example:", *commands]))


def _drawing_columns(model: dict[str, Any]) -> tuple[str, str, str, str]:
    """Size, steps, guidance and scheduler; nothing of a model that draws nothing."""
    if all(task in NOT_DRAWING for task in _tasks(model)):
        return "", "", "", ""
    steps = f"{model['num_inference_steps']} (1-{model['max_steps']})"
    return f"{model['width']}x{model['height']}", steps, f"{model['guidance_scale']:g}", model["scheduler"]


def _tasks(model: dict[str, Any]) -> list[str]:
    """Older services name none."""
    return [str(task) for task in model.get("tasks") or ["text-to-image"]]


def _state(model: dict[str, Any]) -> str:
    if model.get("paused"):
        return "paused"
    if model["state"] == "ready" or "seen_at" not in model:
        return str(model["state"])
    return f"{model['state']} since {model['seen_at'][:16].replace('T', ' ')}"


def _print(models: list[dict[str, Any]]) -> None:
    rows = []
    for model in models:
        if model.get("alias_of"):
            continue
        other_names = [each["id"] for each in models if each.get("alias_of") == model["id"]]
        notes = [*(["default"] if model.get("default") else []), *other_names]
        rows.append(
            (
                f"{model['id']} ({', '.join(notes)})" if notes else model["id"],
                _state(model),
                str(model["workers"]),
                str(model.get("waiting", "")),
                *_drawing_columns(model),
                str(model["seats"]),
                "" if (pace := model["pace_seconds"]) is None else f"{pace:.1f}",
                ", ".join(_tasks(model)),
            )
        )
    print_table(COLUMNS, rows)
