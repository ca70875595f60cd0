"""`darkroom admin queue|workers|models|dead|audit`: what the service shows to operators, as tables or as JSON.

The service decides who may see it. Nothing here changes anything.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Sequence

from rich.text import Text

from app.cli.admin_answers import CHANGE, DEAD, SHARE, WORKER, Row, converse_as_operator, list_all, models_of
from app.cli.client import Service
from app.cli.exits import OK
from app.cli.options import Access
from app.cli.plain import plain
from app.cli.spoken import moment
from app.cli.tables import print_table

STATES = {
    "serving": "green",
    "ready": "green",
    "starting": "cyan",
    "draining": "yellow",
    "away": "red",
    "paused": "yellow",
}


def show_queue(*, model: str | None, limit: int, as_json: bool, access: Access) -> int:
    """Print who has jobs that are not over. Returns the exit code."""

    async def work(service: Service) -> int:
        rows = await list_all(service, "queue", SHARE, limit=limit, model=model)
        return _show(rows, as_json, _print_queue, none="no job waits or runs")

    return converse_as_operator("admin queue", access, work)


def _print_queue(rows: Sequence[Row]) -> None:
    columns = ("tenant", "model", "waiting", "running", "waiting cost", "running cost", "oldest")
    print_table(columns, [
        (
            row["tenant"], row["model"], str(row["waiting"]), str(row["running"]), f"{row['waiting_cost']:.1f}",
            f"{row['running_cost']:.1f}", moment(row["oldest_waiting_at"]) if row["oldest_waiting_at"] else "",
        )
        for row in rows
    ])  # fmt: skip


def show_workers(*, model: str | None, limit: int, as_json: bool, access: Access) -> int:
    """Print the workers that were heard of lately. Returns the exit code."""

    async def work(service: Service) -> int:
        rows = await list_all(service, "workers", WORKER, limit=limit, model=model)
        return _show(rows, as_json, _print_workers, none="no worker was heard of lately")

    return converse_as_operator("admin workers", access, work)


def _print_workers(rows: Sequence[Row]) -> None:
    columns = ("worker", "state", "models", "computes on", "free seats", "jobs", "rows/s", "version", "last beat", "at")
    print_table(columns, [
        (
            row["name"], _state(row["state"]), _models_of(row), row["device"] or "",
            "" if row["seats"] is None else f"{row['free_seats']}/{row['seats']}", _number(row["jobs"]),
            _number(row["rows_per_second"]), row["version"] or "", moment(row["last_beat_at"]), row["activity"] or "",
        )
        for row in rows
    ])  # fmt: skip


def _models_of(row: Row) -> str:
    """Those that it has in memory, then the others in brackets."""
    others = [f"({name})" for name in row["models"] if name not in row["in_memory"]]
    return " ".join([*row["in_memory"], *others])


def show_models(*, as_json: bool, access: Access) -> int:
    """Print the models with their queues. Returns the exit code."""

    async def work(service: Service) -> int:
        rows = await models_of(service)
        return _show(rows, as_json, _print_models, none="no worker has announced a model")

    return converse_as_operator("admin models", access, work)


def _print_models(rows: Sequence[Row]) -> None:
    columns = ("model", "state", "workers", "in memory", "seats", "waiting", "running", "oldest waits", "paused")
    print_table(columns, [
        (
            row["id"], _state("paused" if row["paused"] else row["state"]), str(row["workers"]), str(row["in_memory"]),
            str(row["seats"]), str(row["waiting"]), str(row["running"]), _age(row["oldest_waiting_seconds"]),
            pause_words(row["paused"]),
        )
        for row in rows
    ])  # fmt: skip


def show_dead(*, limit: int, as_json: bool, access: Access) -> int:
    """Print the jobs that used up their attempts. Returns the exit code."""

    async def work(service: Service) -> int:
        rows = await list_all(service, "dead", DEAD, limit=limit)
        return _show(rows, as_json, _print_dead, none="no dead jobs")

    return converse_as_operator("admin dead", access, work)


def _print_dead(rows: Sequence[Row]) -> None:
    print_table(("job", "died", "tenant", "model", "error"), [
        (
            row["id"], moment(row["died_at"]), row["tenant"], row["model"],
            f"{row['error']['slug']}: {row['error']['detail']}" if row["error"] else "",
        )
        for row in rows
    ])  # fmt: skip


def show_audit(*, limit: int, as_csv: bool, as_json: bool, access: Access) -> int:
    """Print what operators have changed. Returns the exit code."""

    async def work(service: Service) -> int:
        rows = await list_all(service, "audit", CHANGE, limit=limit)
        if as_csv:
            _print_csv(rows)
            return OK
        return _show(rows, as_json, _print_audit, none="nothing was changed")

    return converse_as_operator("admin audit", access, work)


def _print_audit(rows: Sequence[Row]) -> None:
    print_table(("at", "who", "action", "target", "outcome"), [
        (moment(row["at"]), _who(row), row["action"], row["target"], row["outcome"]) for row in rows
    ])  # fmt: skip


def _print_csv(rows: Sequence[Row]) -> None:
    # RFC 4180 ends lines with CR LF; a terminal and its tools do not.
    writer = csv.DictWriter(sys.stdout, [*CHANGE], lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows({name: plain(value) for name, value in row.items()} for row in rows)


def _who(row: Row) -> str:
    if row["via"] != "api":
        return "on the machine"
    return f"{row['tenant']} (key {row['key_id']})" if row["key_id"] else f"{row['tenant']} (no key)"


def _show(rows: Sequence[Row], as_json: bool, write: Callable[[Sequence[Row]], None], *, none: str) -> int:
    if as_json:
        print(json.dumps({"object": "list", "data": list(rows)}, indent=2))
    elif rows:
        write(rows)
    else:
        print(none, file=sys.stderr)
    return OK


def _state(state: str) -> Text:
    return Text(plain(state), STATES.get(state, ""))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _age(seconds: float) -> str:
    """As 12 s, 5 min, 3.2 h or 2.5 d; nothing for nobody who waits."""
    if not seconds:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"


def pause_words(pause: Row | None) -> str:
    """Since when, until when, and what becomes of jobs; nothing where there is none."""
    if pause is None:
        return ""
    jobs = "jobs wait" if pause["accepts"] else "jobs are refused"
    ends = f" until {moment(pause['until'])}" if pause["until"] else ""
    return f"since {moment(pause['since'])}{ends}, {jobs}" + (f": {pause['reason']}" if pause["reason"] else "")
