"""What is used of the service: what an attempt has taken, and what a caller's jobs of a day come to.

Knows counters and how they add up. Refuses to know where they are kept, and whose they are.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields


@dataclass(slots=True)
class Work:
    """Of one attempt at a job, whatever comes of it: `evaluations` of the denoiser, one for each sample and call; the
    `rows` that they took in its batches, two where there is guidance; and seconds of the device. What others shared is
    divided among those who did.
    """

    evaluations: int = 0
    rows: int = 0
    device_seconds: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            self.evaluations + other.evaluations, self.rows + other.rows, self.device_seconds + other.device_seconds
        )

    def counted(self, *, pictures: int = 0, stored_bytes: int = 0) -> dict[str, int]:
        """As the script counts it, with what was kept of it; nothing that is 0."""
        microseconds = round(self.device_seconds * 1_000_000)
        counted = {"pictures": pictures, "evaluations": self.evaluations, "rows": self.rows}
        counted |= {"device_us": microseconds, "stored_bytes": stored_bytes}
        return {name: value for name, value in counted.items() if value}


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one caller's jobs that ended, and pictures that came in, on a day; or a sum of such. Whole numbers.

    docs/api.md says what counts.
    """

    succeeded: int = 0
    failed: int = 0
    canceled: int = 0
    pictures: int = 0
    evaluations: int = 0
    rows: int = 0
    device_us: int = 0
    stored_bytes: int = 0
    uploaded_bytes: int = 0

    @property
    def jobs(self) -> int:
        """That ended, in whatever way."""
        return self.succeeded + self.failed + self.canceled

    @property
    def device_seconds(self) -> float:
        return self.device_us / 1_000_000

    def __add__(self, other: Usage) -> Usage:
        mine, theirs = asdict(self), asdict(other)
        return Usage(**{each.name: mine[each.name] + theirs[each.name] for each in fields(Usage)})
