"""What a failed storage call means, told from what a disk or a bucket answered.

Knows errno and HTTP. Refuses to know what was stored: a sentence of it never holds an object's key.
"""

from __future__ import annotations

import errno
import os
import re
from enum import StrEnum

_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.EEXIST)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Answers that the same request will get again: wrong keys, region or bucket name, and never 404, 408 or 429.
_REFUSALS = (400, 401, 403, 405, 411, 501)
_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,64})</Code>")


class Fault(StrEnum):
    """What a failed storage call means for whoever made it."""

    MISSING = "missing"
    DENIED = "denied"
    FULL = "full"
    TRANSIENT = "transient"


def diagnose(error: Exception, label: str) -> tuple[Fault, str]:
    """What went wrong in the place called `label`: a kind, and a sentence with the remedy but no object key."""
    if isinstance(error, OSError) and error.errno is not None:
        return _diagnose_disk(error, label)
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    text = str(error)
    status = int(found[1]) if (found := _STATUS.search(text)) else 0
    code = found[1] if (found := _CODE.search(text)) else ""
    if code == "NoSuchBucket":
        return Fault.DENIED, f"{label} does not exist: create the bucket or correct the storage URL"
    if isinstance(error, FileNotFoundError):
        return Fault.MISSING, f"the object is not in {label}"
    refused = isinstance(error, PermissionDeniedError | UnauthenticatedError) or "redirect without LOCATION" in text
    if refused or (status in _REFUSALS and code != "RequestTimeout"):
        remedy = "check access key, secret, region, clock and the rights to read, write, list and delete"
        return Fault.DENIED, f"{label} refuses this client ({code or 'denied'}): {remedy}"
    reason = f"HTTP {status} {code}".strip() if status else first_line(error)
    return Fault.TRANSIENT, f"{label} does not answer ({reason}): check that it runs and can be reached from here"


def _diagnose_disk(error: OSError, label: str) -> tuple[Fault, str]:
    why = os.strerror(error.errno or 0).lower()
    if error.errno in _DENIED:
        return Fault.DENIED, f"{label} cannot be used ({why}): make it a writable folder that this user owns"
    if error.errno in _FULL:
        return Fault.FULL, f"{label} takes no more ({why}): free some space or give storage a larger disk"
    if error.errno == errno.ENOENT:
        return Fault.MISSING, f"the object, or its place, is not in {label}"
    return Fault.TRANSIENT, f"{label} fails ({why}): check the disk"


def first_line(error: Exception) -> str:
    """Of what the store's library says, at most 200 characters."""
    # obstore spells the URL, and with it the key, before the last " - "; a debug dump follows the first line.
    return (str(error).splitlines() or [type(error).__name__])[0].rsplit(" - ", 1)[-1][:200]
