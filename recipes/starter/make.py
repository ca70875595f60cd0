"""The whole recipe in order: `python -m recipes.starter.make --minutes 25`, or `make starter-model`.

Knows the stages and which share of the time each gets. A stage whose result is in the work folder is not made again;
delete the result, or the folder, to make it anew.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Stage:
    """`share` of all minutes is for training; 0 for what takes as long as it takes."""

    module: str
    result: str
    share: float = 0.0
    arguments: tuple[str, ...] = ()


STAGES = (
    Stage("sprites", "sprites.npz"),
    Stage("tokens", "tokenizer"),
    Stage("train_decoder", "vae.json", 0.2),
    Stage("train_unet", "unet", 0.64),
    Stage("train_judges", "judge.safetensors", 0.08, ("--only", "judge")),
    Stage("train_judges", "scorer", 0.08, ("--only", "scorer")),
    Stage("assemble", "model/NOTICE"),
    Stage("evaluate", "evaluation.json"),
    Stage("card", "model/README.md"),
)


def command(stage: Stage, options: argparse.Namespace) -> list[str]:
    arguments = [sys.executable, "-m", f"recipes.starter.{stage.module}", "--work", str(options.work)]
    if stage.share:
        arguments += ["--minutes", f"{stage.share * options.minutes:.3f}"]
        arguments += ["--rows", str(options.rows)] if options.rows else []
    if stage.module == "evaluate" and options.prompts:
        arguments += ["--prompts", str(options.prompts)]
    if stage.module == "card":
        arguments += ["--device", device()]
    return [*arguments, *stage.arguments]


def device() -> str:
    """What this machine trains on, in words."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "a CPU"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/starter"))
    parser.add_argument("--minutes", type=float, default=25, help="of training, all stages together")
    parser.add_argument("--rows", type=int, help="batch size at 128 x 128; each stage's own if missing")
    parser.add_argument("--prompts", type=int, help="of the examination; its own number if missing")
    options = parser.parse_args()
    for stage in STAGES:
        if (options.work / stage.result).exists():
            print(f"{stage.result} is there", flush=True)
            continue
        started = time.monotonic()
        # Idle threads that spin would starve their own process beside other work; see `replicas`.
        subprocess.run(command(stage, options), check=True, env={"OMP_WAIT_POLICY": "passive", **os.environ})
        print(f"{stage.module} took {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    main()
