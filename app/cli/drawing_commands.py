"""The words of the commands that draw. Each command imports its work when it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.defaults import DEFAULT_URL
from app.cli.options import ApiKey, AsJson, JobId, Overwrite, Url
from app.cli.parameters import as_spelled_here, with_options_of
from app.contract.messages.deep_cache import MOST_INTERVAL
from app.contract.messages.spec import DRAW_A_SEED
from app.contract.messages.urgency import LEAST_DEADLINE, MOST_DEADLINE

WHERE = "File, folder/, or pattern with {prompt} {seed} {number} {index} {job} {model}."
KEPT_FEATURES = "The whole model at every so many evaluations only, 3 for one: faster, and another picture."
STEPS = "Keep the latents after every so many evaluations, for `darkroom trajectory`: 1 keeps all."
SOON = "Seconds from now by which each job should be over: it goes before your others. Not with --batch."
CAN_WAIT = "These can wait: behind your other jobs, and put aside for those of people who wait."
SHOWN = "Show pictures in the terminal; by itself where it knows kitty's, iTerm2's or sixel graphics."

Prompts = Annotated[list[str] | None, typer.Argument(metavar="PROMPT", help="What the picture shows.")]
Named = Annotated[list[str] | None, typer.Option("--prompt", hidden=True)]
"""For who calls it as the API does."""

Picture = Annotated[str, typer.Argument(help="A PNG, JPEG or WebP; - is stdin.")]
File = Annotated[str | None, typer.Option("--file", "-f", help="Prompts, one a line; # comments; - is stdin.")]
Output = Annotated[str, typer.Option("--output", "-o", help=WHERE)]
Seeds = Annotated[
    list[int] | None,
    typer.Option("--seed", help="Same seed, same picture; -1 takes any. Several: each is drawn.", min=DRAW_A_SEED),
]
AspectRatio = Annotated[
    str | None, typer.Option("--aspect-ratio", metavar="W:H", help="Such as 16:9, instead of width and height.")
]
Mask = Annotated[str | None, typer.Option(metavar="FILE", help="Where the picture is repainted: white.")]
Loras = Annotated[
    list[str] | None, typer.Option("--lora", metavar="NAME[:WEIGHT]", help="A LoRA of the model's. Several: all.")
]
Controls = Annotated[
    list[str] | None,
    typer.Option("--control", metavar="MODEL=FILE[:SCALE]", help="A ControlNet and its picture. Several: all."),
]
Steps = Annotated[int | None, typer.Option("--trajectory", metavar="EVERY", help=STEPS, min=1, max=10_000)]
Decode = Annotated[
    str | None, typer.Option("--trajectory-decode", metavar="linear|vae", help="How its frames are made.")
]
Interval = Annotated[
    int | None, typer.Option("--cache", metavar="INTERVAL", help=KEPT_FEATURES, min=1, max=MOST_INTERVAL)
]
Deadline = Annotated[float | None, typer.Option(metavar="SECONDS", help=SOON, min=LEAST_DEADLINE, max=MOST_DEADLINE)]
Batch = Annotated[bool, typer.Option("--batch", help=CAN_WAIT)]
EachAsJson = Annotated[
    bool, typer.Option("--json", help="A line of JSON for each finished job, with the files' names.")
]
Open = Annotated[bool, typer.Option("--open", help="Open the pictures when all are there.")]
InTerminal = Annotated[bool | None, typer.Option("--preview/--no-preview", help=SHOWN)]


def add_to(app: typer.Typer) -> None:
    """Give the commands to the root command, after those that start processes."""
    drawing = [with_options_of(_draw, command, after="seeds") for command in (generate, edit, vary)]
    commands: list[Callable[..., None]] = [*drawing, reproduce, trajectory]
    for command in commands:
        app.command(context_settings={"token_normalize_func": as_spelled_here})(command)


def generate(
    prompts: Prompts = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="FILE", help="A picture to begin with, as with `edit`.")
    ] = None,
    **options: Any,
) -> None:
    """Draw pictures and save them: every prompt with every seed, all at once.

    No file is written over: a name you gave and that is taken is refused, a name made here gets a number.

    Ctrl-C cancels the jobs that were begun.

    \b
    darkroom generate "a red circle on a blue background" -o out.png --seed 7
    darkroom generate "a frog" "a panda" --seed 1 --seed 2 -o zoo/
    darkroom generate --file prompts.txt -n 4 -o "{number}-{prompt}.webp" --json
    darkroom generate "a red boat" --lora ink:0.8 --control canny=edges.png
    """
    _draw(prompts, image, command="generate", **options)


def edit(picture: Picture, prompts: Prompts = None, **options: Any) -> None:
    """Draw over a picture: all of it, or what --mask shows in white. The rest is as with `generate`.

    \b
    darkroom edit out.png "a yellow star on a blue background"
    darkroom edit out.png "a red boat" --mask boat.png -n 4 -o boats/
    """
    _draw(prompts, picture, command="edit", **options)


def vary(picture: Picture, prompts: Prompts = None, **options: Any) -> None:
    """Draw pictures like one. One that Darkroom made brings its prompt, model and settings; others need a prompt.

    A model that draws from the embedding of a picture needs none, and takes the picture as its embedding.

    \b
    darkroom vary out.png
    darkroom vary out.png --strength 0.3 -n 4
    darkroom vary photo.png --model starter-unclip -n 4
    """
    _draw(prompts, picture, command="vary", **options)


def _draw(
    prompts: list[str] | None,
    picture: str | None = None,
    *,
    command: str,
    named: Named = None,
    file: File = None,
    output: Output = ".",
    seeds: Seeds = None,
    aspect_ratio: AspectRatio = None,
    mask: Mask = None,
    loras: Loras = None,
    controls: Controls = None,
    steps: Steps = None,
    decode: Decode = None,
    interval: Interval = None,
    deadline: Deadline = None,
    batch: Batch = False,
    overwrite: Overwrite = False,
    as_json: EachAsJson = False,
    show: Open = False,
    preview: InTerminal = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    **parameters: Any,
) -> None:
    """What the first three commands share: their options, and the work. `picture` is the one to begin with."""
    from app.cli.generate import Display, draw, warn_of_missing_quotes
    from app.cli.pictures_in import NamedPictures

    asked = _given(
        **parameters,
        aspect_ratio=aspect_ratio,
        keep_previews=bool(parameters["preview_every"]),
        trajectory=_trajectory(steps, decode),
        cache=None if interval is None else {"interval": interval},
        **_urgency(deadline, is_batch=batch),
    )
    display = Display(command=command, as_json=as_json, show=show, preview=preview)
    pictures = NamedPictures(picture, mask, tuple(loras or ()), tuple(controls or ()), is_varied=command == "vary")
    warn_of_missing_quotes(command, prompts or ())
    code = draw(
        [*(prompts or ()), *(named or ())], file, seeds or [], asked,
        output=output, overwrite=overwrite, url=url, api_key=api_key, display=display, pictures=pictures,
    )  # fmt: skip
    raise typer.Exit(code)


def _trajectory(every: int | None, decode: str | None) -> dict[str, Any] | None:
    """What is to be kept of the steps: all of them where only the making of frames is said."""
    return None if every is None and decode is None else _given(every=every or 1, decode=decode)


def _urgency(deadline: float | None, *, is_batch: bool) -> dict[str, Any]:
    if is_batch and deadline is not None:
        raise typer.BadParameter("--batch means that it can wait, and --deadline that it cannot; take one")
    return {"deadline": deadline, "priority": "batch" if is_batch else None}


def _given(**values: Any) -> dict[str, Any]:
    """Without those that nobody has asked for: the service decides them."""
    return {name: value for name, value in values.items() if value is not None and value is not False}


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
        Path | None,
        typer.Option("--output", "-o", help="File: .gif and .webp move, .png is a sheet, .safetensors are latents."),
    ] = None,
    index: Annotated[
        int | None, typer.Option(help="Which picture of the job. Else the one named, or the first.", min=0)
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
) -> None:
    """Show how a picture emerged from noise, step by step: in the terminal, or as a file with -o.

    For jobs that kept their steps (--trajectory) or previews: the page's do, and those drawn with --preview-every.
    Where no terminal is, a file is written: a-frog-7-steps.gif for a-frog-7.png.

    \b
    darkroom generate "a frog" --trajectory 1 --seed 7
    darkroom trajectory a-frog-7.png
    darkroom trajectory a-frog-7.png -o steps.webp
    """
    from app.cli.trajectory import write_trajectory

    code = write_trajectory(
        job_id, index=index, output=output, overwrite=overwrite, as_json=as_json, url=url, api_key=api_key
    )
    raise typer.Exit(code)
