"""A worker whose UNet never answers once it is given a picture: `python -m tests.worker.hanging_worker`.

Everything else is the real thing.
"""

from __future__ import annotations

import dataclasses
import sys
import threading
from typing import Any

import torch

import worker.loading
import worker.main
from worker.models.bundle import Bundle, load
from worker.settings import WorkerSettings


class HangingUnet:
    """Answers the rows of a warm-up, which are nobody's and all zero."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def __call__(self, x: torch.Tensor, *args: Any, **options: Any) -> tuple[torch.Tensor]:
        if x.any():
            threading.Event().wait()
        return (torch.zeros_like(x),)


def load_hanging(settings: WorkerSettings, name: str) -> Bundle:
    bundle = load(settings.model, name=name)
    return dataclasses.replace(bundle, unet=HangingUnet(bundle.unet.config))


if __name__ == "__main__":
    worker.loading._load = load_hanging
    sys.exit(worker.main.run())
