"""The words of the commands that ask a scorer. Each command imports its work when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli import completing
from app.cli.defaults import DEFAULT_URL
from app.cli.options import ApiKey, AsJson, Url

Named = Annotated[
    str | None,
    typer.Option("--model", "-m", help="The scorer. Else the only one there is.", autocompletion=completing.models),
]
Images = Annotated[
    list[str] | None, typer.Option("--image", metavar="FILE", help="A picture. Several: all. - is stdin.")
]


def add_to(app: typer.Typer) -> None:
    """Give the commands to the root command."""
    for command in (score, embed):
        app.command()(command)


def score(
    picture: Annotated[str, typer.Argument(help="A PNG, JPEG or WebP; - is stdin.")],
    texts: Annotated[list[str], typer.Argument(metavar="TEXT", help="What it may show.")],
    images: Images = None,
    template: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What each text is put into, at {}: 'a photo of {}'.")
    ] = None,
    model: Named = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """How well does each text fit a picture? A table in a terminal, JSON in a pipe.

    \b
    darkroom score out.png "a red circle" "a yellow star"
    darkroom score one.png "a frog" "a panda" --image two.png --template "a picture of {}"
    """
    from app.cli.scores import score

    files = [picture, *(images or ())]
    raise typer.Exit(score(files, texts, template=template, model=model, as_json=as_json, url=url, api_key=api_key))


def embed(
    texts: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="What it says.")] = None,
    images: Images = None,
    model: Named = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Vectors of texts and pictures, in one space. A table in a terminal, JSON in a pipe.

    \b
    darkroom embed "a red circle" "a yellow star" --image out.png
    """
    from app.cli.scores import embed

    code = embed(texts or [], images or [], model=model, as_json=as_json, url=url, api_key=api_key)
    raise typer.Exit(code)
