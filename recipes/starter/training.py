"""What every training shares: a budget of time, a falling learning rate, an averaged copy, a checkpoint, a log, and a
check that every weight is trained.

Knows wall-clock time and files; knows no network. A training is cut into calls of some minutes each; what a call leaves
behind is all that the next one needs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

CHECKPOINT_SECONDS = 60.0
DECAY_FROM = 0.4
"""The rate is constant up to this share of the time, then a cosine down to FLOOR. Judge only after it."""
FLOOR = 0.02
WARM_UP_STEPS = 150
CPU_ROWS = 24
HEARD_WITHIN = 100
"""Steps in which a gradient has to reach nearly every weight. New blocks of a widened network hear theirs late."""


def add_arguments(parser: argparse.ArgumentParser, *, minutes: float, rows: int) -> None:
    """The options of every training. `minutes` and `rows` are the defaults on a GPU."""
    parser.add_argument("--work", type=Path, default=Path("build/starter"), help="folder of the whole recipe")
    parser.add_argument("--minutes", type=float, default=minutes, help="how long this call may train")
    parser.add_argument("--total", type=float, help="minutes of all calls together; default: this one is all")
    parser.add_argument("--steps", type=int, help="end after so many steps, of all calls, if time is left then")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint of an earlier call")
    parser.add_argument(
        "--rows", type=int, default=rows if torch.cuda.is_available() else CPU_ROWS, help="batch size at 128 x 128"
    )
    parser.add_argument("--processes", type=int, default=max(0, (os.cpu_count() or 1) - 2), help="that draw plans")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--compile",
        action="store_true",
        help="torch.compile, which takes a minute or two at first; not with --bfloat16 on a CPU",
    )
    parser.add_argument(
        "--bfloat16",
        action=argparse.BooleanOptionalAction,
        default=torch.cuda.is_available(),
        help="activations in bfloat16; for CPUs that multiply it (avx512_bf16, amx_bf16 in /proc/cpuinfo)",
    )


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The options, unless two of them cannot go together."""
    options = parser.parse_args()
    if options.compile and options.bfloat16 and not options.device.startswith("cuda"):
        parser.error("--compile and --bfloat16 together leave most weights without gradients on a CPU (torch 2.13)")
    return options


@dataclass
class Progress:
    """How far a training is, over all its calls."""

    steps: int = 0
    samples: int = 0
    seconds: float = 0.0


@dataclass
class Budget:
    """Time of this call and of the whole training, in minutes, and perhaps a number of steps for all of it.

    `now` may be another clock, for tests.
    """

    minutes: float
    total: float
    progress: Progress
    steps: int | None = None
    now: Callable[[], float] = time.monotonic
    started: float = field(init=False)
    before: float = field(init=False)

    def __post_init__(self) -> None:
        self.started, self.before = self.now(), self.progress.seconds

    def tick(self, samples: int) -> None:
        """A step was made."""
        self.progress.steps += 1
        self.progress.samples += samples
        self.progress.seconds = self.before + self.now() - self.started

    @property
    def spent(self) -> bool:
        enough = self.steps is not None and self.progress.steps >= self.steps
        return enough or self.now() - self.started >= self.minutes * 60 or self.share >= 1

    @property
    def share(self) -> float:
        """How much of the whole training is over, 0..1."""
        return min(1.0, (self.before + self.now() - self.started) / (self.total * 60))

    @property
    def rate(self) -> float:
        """Factor of the learning rate, 0..1."""
        warm = min(1.0, (self.progress.steps + 1) / WARM_UP_STEPS)
        late = max(0.0, (self.share - DECAY_FROM) / (1 - DECAY_FROM))
        return warm * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * late)))


class Average:
    """An exponential moving average of parameters, short at first so that early weights are forgotten."""

    def __init__(self, parameters: Sequence[torch.Tensor], decay: float) -> None:
        self.parameters, self.decay = list(parameters), decay
        self.values = [parameter.detach().clone() for parameter in self.parameters]

    def update(self, step: int) -> None:
        decay = min(self.decay, (step + 1) / (step + 12))
        torch._foreach_lerp_(self.values, [parameter.detach() for parameter in self.parameters], 1 - decay)

    def swap(self) -> None:
        """Exchange parameters and averages; a second call exchanges them back."""
        with torch.no_grad():
            for parameter, value in zip(self.parameters, self.values, strict=True):
                kept = parameter.detach().clone()
                parameter.copy_(value)
                value.copy_(kept)


class Deafness:
    """Watches which weights have not had a gradient yet.

    torch 2.13 compiles a UNet for CPUs in bfloat16 so that 280 of its 339 weights never get one. The loss falls all the
    same, a little, and 400,000 pictures were wasted before anybody looked.
    """

    def __init__(self, modules: dict[str, Any]) -> None:
        self._unheard = _trained(modules)
        self._all, self._steps = len(self._unheard), 0

    def listen(self) -> None:
        """After a backward pass. Raises FloatingPointError when a tenth of the weights heard nothing for too long."""
        if self._steps >= HEARD_WITHIN:
            return
        self._steps += 1
        self._unheard = [
            (name, weight) for name, weight in self._unheard if weight.grad is None or not weight.grad.any()
        ]
        if self._steps == HEARD_WITHIN and len(self._unheard) > self._all / 10:
            raise FloatingPointError(
                f"No gradient reached {len(self._unheard)} of {self._all} weights in {HEARD_WITHIN} steps, "
                f"{self._unheard[0][0]} among them; train without --compile."
            )


class Trainer:
    """The state of one training: modules by name, optimiser, average, progress, in `folder`."""

    def __init__(
        self, folder: Path, modules: dict[str, Any], *, learning_rate: float, decay: float, options: argparse.Namespace
    ) -> None:
        self.folder, self.modules = folder, modules
        self.learning_rate = learning_rate
        self.device, self.half = torch.device(options.device), options.bfloat16
        self.optimizer = _optimizer(modules, learning_rate, fused=True)
        self.average = Average([weight for _, weight in _trained(modules)], decay)
        self.progress = Progress()
        if options.resume:
            self._load()
        self.budget = Budget(options.minutes, options.total or options.minutes, self.progress, options.steps)
        self._deafness = Deafness(modules)
        self._losses: list[torch.Tensor] = []
        self._said = self._saved = time.monotonic()

    @property
    def going_on(self) -> bool:
        return not self.budget.spent

    def autocast(self) -> torch.autocast:
        """bfloat16 if asked for. Convolutions want channels_last tensors then: others were measured 30 times slower.

        Without autocast's cache of weights: threads share it under a lock, and one that waits for the lock while it
        has the interpreter's, beside one that traces for torch.compile, waits for ever (seen with torch 2.13).
        """
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half, cache_enabled=False)

    def step(self, loss: torch.Tensor, samples: int) -> None:
        """One update from `loss`, a scalar. Raises FloatingPointError when the loss stopped being a number."""
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.update(loss.detach(), samples)

    def update(self, loss: torch.Tensor, samples: int) -> None:
        """One update from the gradients that are there. `loss` is for the log."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * self.budget.rate * group["factor"]
        self._deafness.listen()
        torch.nn.utils.clip_grad_norm_(self.average.parameters, 1.0)
        self.optimizer.step()
        self.budget.tick(samples)
        self.average.update(self.progress.steps)
        self._losses.append(loss)
        if self.progress.steps % 50 == 0:
            self._log()
        if time.monotonic() - self._saved > CHECKPOINT_SECONDS:
            self.save()

    def finish(self) -> None:
        """Log, save, and leave the averaged weights in the modules."""
        if self._losses:
            self._log()
        self.save()
        self.average.swap()

    def save(self) -> None:
        """The whole state, in one file that is either old or new."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.values,
            "progress": vars(self.progress),
        }
        torch.save(state, self.folder / "state.new")
        (self.folder / "state.new").replace(self.folder / "state.pt")
        self._saved = time.monotonic()

    def _load(self) -> None:
        path = self.folder / "state.pt"
        if not path.is_file():
            raise FileNotFoundError(f"There is no checkpoint {path}; train without --resume first.")
        state = torch.load(path, map_location=self.device, weights_only=True)
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.values = list(state["average"])
        self.progress = Progress(**state["progress"])

    def _log(self) -> None:
        loss = torch.stack(self._losses).mean().item()
        self._losses.clear()
        if not math.isfinite(loss):
            raise FloatingPointError("The loss is no number; go back to the last checkpoint with a lower rate.")
        self.folder.mkdir(parents=True, exist_ok=True)
        line = {**vars(self.progress), "loss": round(loss, 5), "rate": self.optimizer.param_groups[0]["lr"]}
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        if time.monotonic() - self._said > 10 or self.budget.spent:
            self._said = time.monotonic()
            speed = self.progress.samples / max(self.progress.seconds, 1e-9)
            print(f"{self.folder.name}: {self.budget.share:4.0%}, loss {loss:.4f}, {speed:.0f} samples/s", flush=True)


def _trained(modules: dict[str, Any]) -> list[tuple[str, torch.nn.Parameter]]:
    """Names and weights that a training changes."""
    return [item for module in modules.values() for item in module.named_parameters() if item[1].requires_grad]


def _optimizer(modules: dict[str, Any], learning_rate: float, *, fused: bool) -> torch.optim.AdamW:
    """Embeddings learn twice as fast and are not decayed: most of them have no gradient in most steps."""
    named = _trained(modules)
    embeddings = [parameter for name, parameter in named if "token_embedding" in name or "position_embedding" in name]
    known = {id(parameter) for parameter in embeddings}
    groups: list[dict[str, Any]] = [
        {"params": [parameter for _, parameter in named if id(parameter) not in known], "factor": 1.0}
    ]
    if embeddings:
        groups.append({"params": embeddings, "factor": 2.0, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=fused)


def prepare_device(device: str) -> None:
    """TF32 for what autocast leaves in float32; the order of additions may vary."""
    if device.startswith("cuda"):
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
