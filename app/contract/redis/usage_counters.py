"""What is counted of a tenant's day, and how one string has it: for Python that reads it, and scripts that write it."""

from __future__ import annotations

USAGE_COUNTERS = (
    "succeeded", "failed", "canceled", "pictures", "evaluations", "rows", "device_us", "stored_bytes", "uploaded_bytes",
)  # fmt: skip
"""What such a field counts: whole numbers in this order, spaces between. New ones come at the end: what an older
version has written is short, and what it does not know it drops. One string takes 65 bytes, a hash of counters 221."""

USAGE_READ = "^" + " ?".join("(%d*)" for _ in USAGE_COUNTERS)
USAGE_WRITTEN = " ".join("%.0f" for _ in USAGE_COUNTERS)
"""Such a field, to Lua's string.match and string.format: one call each, for it is done at the end of every job."""
