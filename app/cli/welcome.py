"""What `darkroom up` prints in a terminal once it is ready: commands that work as they are copied.

Knows how they are written. Refuses to know whether the service asks for keys: that is given.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from urllib.parse import quote

from app.cli.defaults import DEFAULT_URL
from app.cli.own_program import as_typed

PROMPT = "a red circle on a blue background"


def welcome(url: str, token: str, data: Path, *, needs_key: bool) -> str:
    """How to draw, and where the operator's page is. `token` opens that as long as nobody needs a key."""
    program = as_typed()
    curl = f"curl -X POST {url}/v1/jobs -H 'content-type: application/json'"
    body = f'-d \'{{"prompt":"{PROMPT}","seed":7}}\''
    # Without -o: it works as often as it is copied, and beside what was drawn before.
    generate = f'{program} generate "{PROMPT}"' + ("" if url == DEFAULT_URL else f" --url {url}")
    if not needs_key:
        operator = f"the operator's page, until there are keys: {url}/admin#key={quote(token, safe='')}"
        return f"  {curl} \\\n    {body}\n  {generate}\n{operator}"
    elsewhere = "" if data == Path("data").absolute() else f" --data {shlex.quote(str(data))}"
    lines = [
        f"it asks for a key; `{program} keys create NAME{elsewhere}` makes one",
        "  export DARKROOM_API_KEY=drk_...",
        f'  {curl} \\\n    -H "authorization: Bearer $DARKROOM_API_KEY" {body}',
        f"  {generate}",
        f"the operator's page, with a key of the scope admin: {url}/admin",
    ]
    return "\n".join(lines)
