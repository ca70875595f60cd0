"""Options that several commands share, so that each has one name and one help text everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from app.cli import completing

Url = Annotated[str, typer.Option(envvar="DARKROOM_URL", help="The service.")]
ApiKey = Annotated[str | None, typer.Option(envvar="DARKROOM_API_KEY", help="Your key, if it asks.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, as the API writes it.")]
Data = Annotated[Path, typer.Option(help="Data folder of `darkroom up`.")]
TokenOf = Annotated[
    Path | None,
    typer.Option("--data", help="Data folder of a `darkroom up` without keys: its operator's token is your key."),
]
MODEL_HELP = "Model folder in the diffusers layout, or a bundled model's name: starter, starter-unclip."
Model = Annotated[Path | None, typer.Option(help=MODEL_HELP)]
Models = Annotated[
    list[Path] | None,
    typer.Option("--model", help=f"{MODEL_HELP} Given again: one more, with a worker of its own."),
]
Folders = Annotated[
    str | None,
    typer.Option(
        "--models",
        help="Instead: a folder of model folders, or some with commas between. A worker has one in memory at a time.",
    ),
]
DEVICE_HELP = "auto, cpu, cuda, cuda:1 or mps."
Devices = Annotated[
    list[str] | None,
    typer.Option("--device", help=f"{DEVICE_HELP} Given again: one more, with a worker of its own."),
]
Workers = Annotated[int | None, typer.Option(help="How many in all. Else one for each model or device.", min=1)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Write over a file that exists.")]
WHICH_JOB = "The id, or the first four or more of its digits, or a picture of the job."
JobId = Annotated[str, typer.Argument(metavar="JOB", help=WHICH_JOB, autocompletion=completing.jobs)]


@dataclass(frozen=True, slots=True)
class Access:
    """Where an operator's command goes, and what opens the service to it: the token of a data folder, or a key."""

    url: str
    api_key: str | None
    data: Path | None
