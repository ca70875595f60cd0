"""The commands that draw: generate, reproduce, trajectory. Their words only; each imports its work when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.defaults import DEFAULT_URL
from app.cli.options import ApiKey, AsJson, JobId, Overwrite, Url
from app.cli.parameters import with_parameters

WHERE = "File, folder/, or pattern with {prompt} {seed} {number} {index} {job} {model}."
IN_TERMINAL = "Show pictures in the terminal; by itself where it knows kitty's, iTerm2's or sixel graphics."


def add_to(app: typer.Typer) -> None:
    """Give the commands to the root command, after those that start processes."""
    for command in (with_parameters(generate, after="seeds"), reproduce, trajectory):
        app.command()(command)


def generate(
    prompts: Annotated[list[str] | None, typer.Argument(metavar="[PROMPT]...", help="What the picture shows.")] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", help="Prompts, one a line; # comments; - is stdin.")
    ] = None,
    output: Annotated[str, typer.Option("--output", "-o", help=WHERE)] = ".",
    seeds: Annotated[
        list[int] | None, typer.Option("--seed", help="Same seed, same picture. Several: each is drawn.", min=0)
    ] = None,
    aspect_ratio: Annotated[
        str | None, typer.Option("--aspect-ratio", metavar="W:H", help="Such as 16:9, instead of width and height.")
    ] = None,
    image: Annotated[
        Path | None, typer.Option("--image", metavar="FILE", help="A picture to begin with; see --strength.")
    ] = None,
    mask: Annotated[
        Path | None, typer.Option("--mask", metavar="FILE", help="White where --image is repainted.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="A line of JSON for each finished job, with the files' names.")
    ] = False,
    show: Annotated[bool, typer.Option("--open", help="Open the pictures when all are there.")] = False,
    preview: Annotated[bool | None, typer.Option("--preview/--no-preview", help=IN_TERMINAL)] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    **parameters: Any,
) -> None:
    """Draw pictures and save them: every prompt with every seed, all at once.

    No file is written over: a name you gave and that is taken is refused, a name made here gets a number.

    Ctrl-C cancels the jobs that were begun.

    \b
    darkroom generate "a red circle on a blue background" -o out.png --seed 7
    darkroom generate "a frog" "a panda" --seed 1 --seed 2 -o zoo/
    darkroom generate "a yellow circle" --image out.png --strength 0.6
    darkroom generate --file prompts.txt -n 4 -o "{number}-{prompt}.webp" --json
    """
    from app.cli.generate import Display, draw

    asked = {name: value for name, value in parameters.items() if value is not None and value is not False}
    if aspect_ratio is not None:
        asked["aspect_ratio"] = aspect_ratio
    if parameters["preview_every"]:
        asked["keep_previews"] = True
    display = Display(as_json=as_json, show=show, preview=preview)
    code = draw(
        prompts or [], file, seeds or [], asked,
        output=output, overwrite=overwrite, url=url, api_key=api_key, display=display,
        files={name: path for name, path in (("image", image), ("mask_image", mask)) if path is not None},
    )  # fmt: skip
    raise typer.Exit(code)


def reproduce(
    picture: Annotated[Path, typer.Argument(help="A PNG, JPEG or WebP that Darkroom made.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Save the new picture too.")] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Draw a picture again from the record inside it, and compare. Exit code 4: it is not the same.

    \b
    darkroom reproduce out.png
    """
    from app.cli.reproduce import reproduce

    code = reproduce(picture, output=output, overwrite=overwrite, as_json=as_json, url=url, api_key=api_key)
    raise typer.Exit(code)


def trajectory(
    job_id: JobId,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="What to write: .gif or .webp moves, .png is a sheet.")
    ] = Path("steps.gif"),
    index: Annotated[
        int | None, typer.Option(help="Which picture of the job. Else the one named, or the first.", min=0)
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Show how a picture emerged from noise: its previews one after the other, then the picture.

    For jobs that kept their previews: the page's do, and those drawn with --preview-every.

    \b
    darkroom generate "a frog" --preview-every 2 --seed 7
    darkroom trajectory a-frog-7.png -o steps.gif
    """
    from app.cli.trajectory import write_trajectory

    code = write_trajectory(
        job_id, index=index, output=output, overwrite=overwrite, as_json=as_json, url=url, api_key=api_key
    )
    raise typer.Exit(code)
