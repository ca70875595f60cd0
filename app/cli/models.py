"""`darkroom models`: what a running service serves, as a table or as the JSON of GET /v1/models."""

from __future__ import annotations

import json
import sys
from typing import Any

from rich.table import Table
from rich.text import Text

from app.cli.client import Service, converse
from app.cli.exits import FAILED, OK
from app.cli.plain import plain
from app.cli.screen import paper


def show_models(*, url: str, api_key: str | None, as_json: bool) -> int:
    """Print them. Returns the exit code, 0 when at least one is ready."""

    async def work(service: Service) -> int:
        served = await service.models()
        if as_json:
            print(json.dumps({"object": "list", "data": served}, indent=2))
        elif served:
            paper().print(_table(served))
        if any(model["state"] == "ready" for model in served):
            return OK
        print("darkroom models: no worker serves a model now; start one with `darkroom worker`", file=sys.stderr)
        return FAILED

    return converse("models", url, api_key, work)


def _table(models: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("model", "state", "workers", "size", "steps", "guidance", "scheduler", "seats", "seconds a job"):
        table.add_column(column, justify="right" if column in ("workers", "seats", "seconds a job") else "left")
    for model in models:
        pace = model["pace_seconds"]
        table.add_row(
            Text(plain(model["id"])),
            model["state"],
            str(model["workers"]),
            f"{model['width']}x{model['height']}",
            f"{model['num_inference_steps']} (1-{model['max_steps']})",
            f"{model['guidance_scale']:g}",
            Text(plain(model["scheduler"])),
            str(model["seats"]),
            "" if pace is None else f"{pace:.1f}",
        )
    return table
