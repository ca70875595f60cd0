"""The embedded server in folders that people really have."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cli.embedded import EmbeddedValkey


@pytest.mark.parametrize("name", ["my data", "Bücher", "long" * 30], ids=["space", "umlaut", "long"])
def test_a_folder_of_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name / "logs").mkdir(parents=True)
    server = EmbeddedValkey(tmp_path / name)
    server.start()
    try:
        client = server._client()
        assert client.client_info()["db"] == 0, "what RQ asks for when a worker registers"
        client.set("kept", "1")
    finally:
        server.stop()
    again = EmbeddedValkey(tmp_path / name)
    again.start()
    try:
        assert again._client().get("kept") == b"1"
    finally:
        again.stop()
