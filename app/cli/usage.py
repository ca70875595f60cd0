"""`darkroom usage`: what was used by day, as a table, as CSV or as the JSON of GET /v1/usage."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.cli.admin_answers import converse_as_operator
from app.cli.answers import COUNTS, USAGE, USAGE_PAGE, fits
from app.cli.client import CommandError, Service, converse
from app.cli.exits import OK, REFUSED
from app.cli.options import Access
from app.cli.plain import plain
from app.cli.tables import print_table
from app.jobs.usage import COLUMNS

ROWS_AT_ONCE = 1_000
MOST_PAGES = 1_000
"""A million rows. Whoever needs more takes them by the month."""

HELD = {"bytes": int, "most_bytes": (None, int)}
UNITS = ("B", "kB", "MB", "GB", "TB")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Whose:
    """The caller's own, or with a key of the scope admin that of everybody or of one tenant."""

    everybody: bool = False
    tenant: str | None = None

    @property
    def is_own(self) -> bool:
        return not self.everybody and self.tenant is None


def show_usage(days: Mapping[str, str | None], whose: Whose, *, as_csv: bool, as_json: bool, access: Access) -> int:
    """Print it for the days `from` and `to`, as far as they are given. Returns the exit code."""

    async def work(service: Service) -> int:
        own = whose.is_own
        report = await service.report("/v1/usage", USAGE, **days) if own else await _of_others(service, whose, days)
        if as_json:
            print(json.dumps(report, indent=2))
        elif as_csv:
            print_csv(report["data"])
        else:
            print_usage(report, with_tenants=whose.everybody)
            print_held(report.get("inputs"))
        return OK

    if whose.is_own:
        return converse("usage", access.url, access.api_key, work)
    return converse_as_operator("usage", access, work)


async def _of_others(service: Service, whose: Whose, days: Mapping[str, str | None]) -> Row:
    """All pages as one, with their sum."""
    rows: list[Row] = []
    page: Row = {"next_cursor": None}
    for _ in range(MOST_PAGES):
        place = {"tenant": whose.tenant, "limit": ROWS_AT_ONCE, "cursor": page["next_cursor"]}
        page = await service.report("/v1/admin/usage", USAGE_PAGE, **days, **place)
        rows += page["data"]
        if page["next_cursor"] is None:
            total = {name: sum(row[name] for row in rows) for name in COUNTS}
            return {"object": "usage", "from": page["from"], "to": page["to"], "data": rows, "total": total}
    raise CommandError("there is too much of it; ask for fewer days", REFUSED)


def print_csv(rows: Sequence[Row]) -> None:
    """A line for each, after one with the names of the columns."""
    # RFC 4180 ends lines with CR LF; a terminal and its tools do not.
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([plain(str(row[name])) for name in COLUMNS] for row in rows)


def print_usage(report: Row, *, with_tenants: bool = False) -> None:
    """A row for each day (and tenant), and their sum where there are several."""
    rows = report["data"]
    if not rows:
        print(f"nothing was used from {report['from']} to {report['to']}", file=sys.stderr)
        return
    heads = ("day (UTC)", "tenant") if with_tenants else ("day (UTC)",)
    counted = ("jobs", "failed", "canceled", "pictures", "evaluations", "device", "stored", "uploaded")
    named = [([str(row["date"]), str(row["tenant"])], row) for row in rows]
    total = [(["total", ""], report["total"])] if len(rows) > 1 else []
    print_table((*heads, *counted), [[*names[: len(heads)], *_cells(row)] for names, row in (*named, *total)])


def print_held(held: Any) -> None:
    """What the pictures that were sent in take, if there are any: a service of before did not say it."""
    if fits(held, HELD) and held["bytes"]:
        most = f" of {size(held['most_bytes'])}" if held["most_bytes"] else ""
        print(f"pictures sent in: {size(held['bytes'])}{most}")


def _cells(row: Row) -> list[str]:
    counts = [str(row[each]) for each in ("jobs", "failed", "canceled", "pictures", "evaluations")]
    return [
        *counts,
        duration(row["device_seconds"]),
        *(size(row[each]) for each in ("stored_bytes", "uploaded_bytes")),
    ]


def duration(seconds: float) -> str:
    """As 0.42 s, 12.3 s, 5 min 08 s or 31 h 02 min."""
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min"


def size(count: int) -> str:
    """Bytes in units of a thousand."""
    value, unit = float(count), 0
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1_000, unit + 1
    return f"{count} B" if unit == 0 else f"{value:.3g} {UNITS[unit]}"
