"""`darkroom inputs list|delete`: the pictures that the caller sent in, as the service shows them to every client."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Awaitable, Sequence
from typing import Any

from app.cli.answers import INPUTS
from app.cli.client import CommandError, Refused, Service, converse
from app.cli.exits import FAILED, OK, REFUSED
from app.cli.paging import pages
from app.cli.plain import plain
from app.cli.spoken import moment
from app.cli.tables import print_lines
from app.cli.usage import size
from app.contract.messages import patterns
from app.contract.messages.input_id import is_input_id

PAGE = 100
"""Pictures of one answer of the API, at most."""

IN_USE, NOT_FOUND = "input-in-use", "input-not-found"
_WHERE = "`darkroom inputs list` shows them"

Input = dict[str, Any]


def list_inputs(*, limit: int, as_json: bool, url: str, api_key: str | None) -> int:
    """Print the newest pictures. Returns the exit code."""

    async def work(service: Service) -> int:
        found, cursor = await _newest(service, limit)
        if as_json:
            print(json.dumps({"object": "list", "data": found, "next_cursor": cursor}, indent=2))
        else:
            _print_list(found, more=cursor is not None)
        return OK

    return converse("inputs list", url, api_key, work)


def delete_inputs(input_ids: Sequence[str], *, as_json: bool, url: str, api_key: str | None) -> int:
    """Delete these. Returns the exit code."""

    async def work(service: Service) -> int:
        for input_id in [_named(each) for each in dict.fromkeys(input_ids)]:
            try:
                await service.delete(f"/v1/inputs/{input_id}")
            except Refused as refusal:
                raise _about(input_id, refusal) from None
            _say_deleted(input_id, as_json=as_json)
        return OK

    return converse("inputs delete", url, api_key, work)


def delete_all_inputs(*, as_json: bool, url: str, api_key: str | None) -> int:
    """Delete all but those that an unfinished job needs, which are named. Returns the exit code."""

    async def work(service: Service) -> int:
        found, _ = await _newest(service, None)
        is_kept = False
        for picture in found:
            try:
                await service.delete(f"/v1/inputs/{picture['id']}")
            except Refused as refusal:
                if refusal.slug == IN_USE:
                    is_kept = True
                    print(f"{picture['id']}  stays: a job that is not over needs it", file=sys.stderr)
                # One that is gone by now is what was asked for.
                elif refusal.status != 404:
                    raise
            else:
                _say_deleted(picture["id"], as_json=as_json)
        if not found:
            print("no pictures of yours are kept", file=sys.stderr)
        return FAILED if is_kept else OK

    return converse("inputs delete", url, api_key, work)


async def _newest(service: Service, limit: int | None) -> tuple[list[Input], str | None]:
    """So many of the caller's pictures, or all, and where the next begin if there are any."""
    found: dict[str, Input] = {}
    cursor: str | None = None

    def ask(cursor: str | None) -> Awaitable[dict[str, Any]]:
        wanted = PAGE if limit is None else min(PAGE, limit - len(found))
        return service.report("/v1/inputs", INPUTS, limit=wanted, cursor=cursor)

    async for page in pages(ask):
        found |= {each["id"]: each for each in page["data"]}
        cursor = page["next_cursor"]
        if limit is not None and len(found) >= limit:
            break
    return [*found.values()], cursor


def _named(given: str) -> str:
    """What was written on the command line, if it can be in a path. Raises CommandError."""
    if is_input_id(given) or re.fullmatch(patterns.SHA256, given):
        return given
    what = "is neither the whole id of a picture that was sent in, in_ and 24 digits, nor the SHA-256 of its file"
    raise CommandError(f"{plain(given, 70)} {what}; {_WHERE}", REFUSED)


def _about(input_id: str, refusal: Refused) -> CommandError:
    """Which of several was refused. Of one that is gone the service says that it should be sent again."""
    if refusal.slug == NOT_FOUND:
        return CommandError(f"no picture that you sent in is {input_id}; {_WHERE}", REFUSED)
    return CommandError(f"{input_id}: {refusal}", refusal.code)


def _say_deleted(input_id: str, *, as_json: bool) -> None:
    print(json.dumps({"id": input_id, "deleted": True}) if as_json else f"{input_id}  deleted")


def _print_list(found: Sequence[Input], *, more: bool) -> None:
    if not found:
        print("no pictures; `darkroom edit` sends one in", file=sys.stderr)
        return
    print_lines(
        ("input", "size", "stored", "created", "kept until"),
        [
            (
                picture["id"],
                f"{picture['width']}x{picture['height']}",
                size(picture["bytes"]),
                moment(picture["created_at"]),
                moment(picture["expires_at"]),
            )
            for picture in found
        ],
        cut=(),
        spare=("created", "size", "stored"),
    )
    if more:
        print("there are more; --limit shows them", file=sys.stderr)
