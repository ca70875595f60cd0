"""What callers have used, as answers show it: which days are meant, rows by day and tenant, and the same as CSV.

Knows days and columns. Refuses to know where the numbers come from, and who may see whose.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import date, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.contract.messages.usage import Usage
from app.contract.redis.keys import USAGE_DAYS
from app.contract.redis.usage import Day
from app.edge.errors import InvalidRequest

BY_DEFAULT = 30
"""Days, today among them, where a request does not say since when."""


class UsageCounts(BaseModel):
    """Sums of what ended."""

    model_config = ConfigDict(frozen=True)

    jobs: int = Field(description="That ended, in whatever way")
    succeeded: int
    failed: int
    canceled: int
    pictures: int = Field(description="Kept for their owner: none that was blocked, or given up among several")
    evaluations: int = Field(description="Of the denoiser, one for each sample and call, whatever came of them")
    rows: int = Field(description="That they took in batches: two with guidance, else one")
    device_seconds: float = Field(description="Of the GPU or CPU; what several jobs shared is divided among them")
    stored_bytes: int = Field(description="Of pictures, and of files beside them")
    uploaded_bytes: int = Field(description="Of pictures that came in and were new")

    @staticmethod
    def counts_of(usage: Usage) -> dict[str, Any]:
        """The fields of this class."""
        counts = {name: value for name, value in asdict(usage).items() if name != "device_us"}
        return counts | {"jobs": usage.jobs, "device_seconds": usage.device_seconds}


class UsageDay(UsageCounts):
    """Of one tenant on one day, UTC."""

    date: str = Field(json_schema_extra={"format": "date"})
    tenant: str

    @classmethod
    def of(cls, day: Day) -> UsageDay:
        on, tenant, usage = day
        return cls(date=on.isoformat(), tenant=tenant, **cls.counts_of(usage))


class InputsHeld(BaseModel):
    """The pictures that came in and are kept now, all together."""

    bytes: int
    most_bytes: int | None = Field(description="With which further ones are refused; null: no bound")


class UsageReport(BaseModel):
    """Days on which nothing was used are left out."""

    object: Literal["usage"] = "usage"
    first: str = Field(serialization_alias="from", json_schema_extra={"format": "date"})
    last: str = Field(serialization_alias="to", json_schema_extra={"format": "date"})
    data: list[UsageDay]
    total: UsageCounts
    inputs: InputsHeld

    @classmethod
    def of(cls, period: Period, days: Sequence[Day], inputs: InputsHeld) -> UsageReport:
        total = sum((usage for _, _, usage in days), Usage())
        return cls(
            first=period.first.isoformat(),
            last=period.last.isoformat(),
            data=[UsageDay.of(day) for day in days],
            total=UsageCounts(**UsageCounts.counts_of(total)),
            inputs=inputs,
        )


class UsagePage(BaseModel):
    """Of many tenants, by day and then by name. Days on which nothing was used are left out."""

    object: Literal["usage"] = "usage"
    first: str = Field(serialization_alias="from", json_schema_extra={"format": "date"})
    last: str = Field(serialization_alias="to", json_schema_extra={"format": "date"})
    data: list[UsageDay]
    next_cursor: str | None = Field(description="Give it as `cursor` to get the next page; null on the last")

    @classmethod
    def of(cls, period: Period, days: list[UsageDay], next_cursor: str | None) -> UsagePage:
        return cls(first=period.first.isoformat(), last=period.last.isoformat(), data=days, next_cursor=next_cursor)


@dataclass(frozen=True, slots=True)
class Period:
    """The days from `first` to `last`, both included."""

    first: date
    last: date

    @classmethod
    def asked(cls, first: date | None, last: date | None, *, today: date) -> Period:
        """What a request means that leaves something open. Raises InvalidRequest for what is no period, or too long."""
        last = last or max(today, first or today)
        first = first or date.fromordinal(max(1, last.toordinal() - BY_DEFAULT + 1))
        if first > last:
            raise _refused("to", "before_from", "is before the first day, `from`")
        if (last - first).days >= USAGE_DAYS:
            raise _refused("from", "too_long", f"is more than {USAGE_DAYS} days before the last day, `to`")
        return cls(first, last)

    def kept(self, *, today: date) -> Period | None:
        """The part of it of which there can be anything; None if there is none."""
        first, last = max(self.first, today - timedelta(days=USAGE_DAYS)), min(self.last, today)
        return Period(first, last) if first <= last else None

    def since(self, day: date) -> Period | None:
        """The part of it from that day on; None if there is none."""
        return Period(max(self.first, day), self.last) if day <= self.last else None


COLUMNS = (
    "date", "tenant", "jobs", "succeeded", "failed", "canceled", "pictures", "evaluations", "rows", "device_seconds",
    "stored_bytes", "uploaded_bytes",
)  # fmt: skip
"""Of the CSV. New ones come at the end: programs read them by their places."""


def as_csv(days: Iterable[Day], *, head: bool = True) -> str:
    """A line for each, after one with the names of the columns (RFC 4180)."""
    file = io.StringIO()
    writer = csv.writer(file)
    if head:
        writer.writerow(COLUMNS)
    for day in days:
        row = UsageDay.of(day).model_dump()
        writer.writerow([row[name] for name in COLUMNS])
    return file.getvalue()


def _refused(parameter: str, code: str, detail: str) -> InvalidRequest:
    error = {"parameter": parameter, "code": code, "detail": detail}
    return InvalidRequest("These days cannot be shown, see `errors`.", errors=[error])
