"""What only `darkroom up` reads of the environment, beside what it hands on. Its options go before these.

Environment prefix DARKROOM_. Knows what a value may be; refuses to know what is started for it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from app.contract.common.environment import read_settings
from app.settings import Listed, Settings

MOST_WORKERS = 64
"""No machine has more GPUs: a larger number is a slip."""


class UpSettings(Settings):
    """The gateway's settings, which say where everything is, and which workers are started. Read once, at the start."""

    up_models: Annotated[tuple[Path, ...], *Listed] = Field(
        default=(), description="Models, as `--model` of `darkroom up` names them, commas between"
    )
    up_devices: Annotated[tuple[str, ...], *Listed] = Field(
        default=(), description="Devices, as `--device` of `darkroom up` names them, commas between"
    )
    up_workers: int | None = Field(
        default=None,
        ge=1,
        le=MOST_WORKERS,
        description="How many workers `darkroom up` starts in all, as `--workers` says. Default: one for each model "
        "or each device",
    )


def settings_from_env() -> UpSettings:
    """The settings as the environment has them. Raises SettingsError."""
    return read_settings(UpSettings)
