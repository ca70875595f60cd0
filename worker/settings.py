"""Every option of a worker, with its unit and the reason for its default; but for those that the gateway has, too:
app/contract/settings.py. Environment prefix DARKROOM_.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from app.contract.common.environment import LONGEST_SECONDS, PREFIX, WORKER_NAME, items, read_settings
from app.contract.messages.card import Safety
from app.contract.messages.inputs import MOST_CONTROLS
from app.contract.messages.model_name import BUNDLED_MODEL, BUNDLED_SCORER, model_name
from app.contract.settings import SharedSettings
from worker.models.controlnets import KeptFolder


class WorkerSettings(SharedSettings):
    """Read once, at the start."""

    model_config = SettingsConfigDict(protected_namespaces=())

    model: Path = Field(
        default=BUNDLED_MODEL,
        description="Folder in the diffusers layout, safetensors only; or a bundled model's name",
    )
    model_name: str | None = Field(
        default=None, description="How requests call it: a-z, 0-9, . _ -. The folder's name if missing"
    )
    models: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(items)] = Field(
        default=(),
        description="In the place of DARKROOM_MODEL: a folder of model folders, or some with commas between. One is in "
        "memory at a time, and makes room for another whose jobs wait",
    )
    hold_seconds: float = Field(
        default=30.0,
        ge=0,
        le=LONGEST_SECONDS,
        description="Of DARKROOM_MODELS: how long a model that has jobs stays in memory at least while another's wait. "
        "Or five times as long as that one takes to load, where this is longer",
    )
    scorer: Annotated[Path | None, BeforeValidator(lambda given: None if given == "off" else given)] = Field(
        default=BUNDLED_SCORER,
        description="Folder of a CLIP that scores and embeds beside the model; off: none",
    )
    vae: Path | None = Field(
        default=None,
        description="Folder of an AutoencoderKL that takes the place of the model's own VAE, safetensors only",
    )
    prior: Path | None = Field(
        default=None,
        description="Folder of the prior of a model that comes in two folders: Kandinsky 2.2's, where DARKROOM_MODEL "
        "names its decoder",
    )
    controlnets: Path | None = Field(
        default=None,
        description="Folder of ControlNets that requests may name: folders in the diffusers layout, and .safetensors "
        "in the same spelling",
    )
    controlnets_kept: int = Field(
        default=2,
        ge=1,
        le=MOST_CONTROLS,
        description="ControlNets in memory at once. Each is loaded when a request first names it",
    )
    loras: Path | None = Field(
        default=None,
        description="Folder of LoRA files that requests may name, safetensors only, each by its file's name",
    )
    embeddings: Path | None = Field(
        default=None,
        description="Folder of textual inversions that prompts may name, safetensors only, each by its file's name",
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, mps. auto takes the first GPU")
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto", description="auto: float16 on a GPU, float32 on a CPU"
    )
    seats: int = Field(default=16, ge=1, le=256, description="Pictures denoised at the same time")
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads of one operation. torch's choice if missing"
    )
    graphs: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Capture whole steps as CUDA graphs. auto: on a GPU, as far as they can be; on: or fail",
    )
    compile: Literal["off", "auto", "on"] = Field(
        default="off",
        description="Compile the network for the sizes of a step: minutes at the first start, kept for later ones. "
        "auto: on a GPU, as far as it can be; on: or fail",
    )
    channels_last: Literal["auto", "on", "off"] = Field(
        default="auto", description="Memory layout of the convolutions. auto: on CUDA and on a CPU"
    )
    safety: Safety = Field(
        default="off",
        description="The model's own safety checker. flag: pictures are marked; block: what it flags is not shown, and "
        "there are no previews. Both need a model that comes with one",
    )
    profile_folder: Path | None = Field(
        default=None,
        description="Where is remembered what the first start found out: the best size of a step, and which schedulers "
        "work. Default: darkroom/profiles in the user's cache folder",
    )

    grace_seconds: float = Field(
        default=20.0,
        ge=0,
        le=LONGEST_SECONDS,
        description="After SIGTERM, how long running jobs may take before they are handed back",
    )
    snapshot_seconds: float = Field(
        default=2.0,
        ge=0,
        le=LONGEST_SECONDS,
        description="Between two snapshots of a job that is drawn, at most: from the newest it goes on elsewhere if "
        "its worker is lost or told to stop. 0: none, and such jobs start over",
    )
    snapshot_kib_per_second: int = Field(
        default=256, ge=1, le=2**20, description="That snapshots of this worker write on average, at most"
    )
    snapshot_max_mib: int = Field(
        default=64, ge=1, le=1024, description="Of one snapshot. A job of which it would be larger has none"
    )
    park_seconds: float = Field(
        default=60.0,
        ge=0,
        le=LONGEST_SECONDS,
        description="For how long a batch job may be put aside for interactive ones that find no seat, sixteen times "
        "at most; 0: never",
    )
    stall_seconds: float = Field(
        default=60.0,
        gt=0,
        le=LONGEST_SECONDS,
        description="A step or a decode that takes longer, and longer than ten times what was measured at the start, "
        "ends the process, so that its jobs run elsewhere",
    )

    worker_metrics_port: int | None = Field(
        default=None, ge=0, le=65_535, description="Serves the worker's /metrics, without a key"
    )

    heartbeat_file: Path | None = Field(
        default=None, description="Touched every 10 s while the process lives, for a container's health check"
    )

    def kept_controlnets(self) -> KeptFolder | None:
        """Where they are, and how many are in memory at once. None where there are none."""
        return KeptFolder(self.controlnets, self.controlnets_kept) if self.controlnets else None

    @model_validator(mode="after")
    def _one_or_several(self) -> Self:
        if self.models:
            for name in ("model", "model_name"):
                if name in self.model_fields_set:
                    remedy = "remove one of them; a model of several has its folder's name"
                    raise ValueError(f"{PREFIX}{name.upper()} does not go with DARKROOM_MODELS: {remedy}")
        return self

    def name(self) -> str:
        """What requests call the model. Raises IllegalName."""
        return model_name(self.model, self.model_name)


def settings_from_env() -> WorkerSettings:
    """The settings as the environment has them. Raises SettingsError."""
    return read_settings(WorkerSettings)


def worker_name() -> str:
    """Unique also for two lives of one container, whose host name and pid are the same: RQ refuses a name twice.

    `darkroom up` gives one, by which it finds the jobs of a worker that died. Takes it out of the environment.
    """
    return os.environ.pop(WORKER_NAME, "") or f"{socket.gethostname()}-{os.getpid()}-{os.urandom(2).hex()}"
