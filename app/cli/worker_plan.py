"""Which workers `darkroom up` starts: models and devices are dealt in turn, and no GPU is taken twice unawares.

Knows names, numbers and what was asked for. Refuses to know processes, torch, and what a model's folder holds.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.cli.up_settings import MOST_WORKERS, UpSettings
from app.cli.words import hint
from app.contract.messages.model_name import BUNDLED_MODEL, IllegalName, model_name

AUTO, CPU = "auto", "cpu"

OF_ONE_MODEL = ("DARKROOM_MODEL_NAME", "DARKROOM_PRIOR", "DARKROOM_VAE")
"""Settings that go with the folder of DARKROOM_MODEL."""

MODEL_FILES = ("model_index.json", "assembly.json")
"""Each makes a folder one of a model that draws. Scorers have others: no request that names no model means one."""

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


class CannotPlan(Exception):
    """What was asked for together cannot be. `str()` is one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Models, devices and how many workers there shall be: None for as many as the longer of the two lists. In the
    place of `models`, `folders` are those of which each worker has one in memory, and folders of such."""

    models: tuple[Path, ...] = ()
    devices: tuple[str, ...] = ()
    workers: int | None = None
    folders: tuple[Path, ...] = ()

    def completed(self, settings: UpSettings, environment: Mapping[str, str]) -> Asked:
        """With what the settings say where this says nothing, and then those of one worker. Raises CannotPlan for
        models that are named in both ways."""
        model, device = environment.get("DARKROOM_MODEL"), environment.get("DARKROOM_DEVICE")
        folders = self.folders or paths_in(environment.get("DARKROOM_MODELS", ""))
        named = self.models or settings.up_models or ((Path(model),) if model else ())
        if folders and named:
            raise CannotPlan(
                "--model (or DARKROOM_UP_MODELS, DARKROOM_MODEL) and --models (or DARKROOM_MODELS) were both given: a "
                "worker has one model, or several of which one is in memory; say one of the two"
            )
        return Asked(
            () if folders else named or (BUNDLED_MODEL,),
            self.devices or settings.up_devices or (device or AUTO,),
            self.workers or settings.up_workers,
            folders,
        )


def paths_in(text: str) -> tuple[Path, ...]:
    """As they are given with commas between."""
    return tuple(Path(each.strip()) for each in text.split(",") if each.strip())


@dataclass(frozen=True, slots=True)
class Machine:
    """What workers share: `gpus` is asked only where it matters, since the answer takes torch some seconds. `cores` are
    those that compute, without their second threads."""

    cores: int
    gpus: Callable[[], Sequence[str]]


@dataclass(frozen=True, slots=True)
class PlannedWorker:
    """One worker: `name` is that of the process and its log, `model` what requests call what it serves, or the first of
    what it may have in memory. `folder` is that model's, or `folders` are those that it has one of.

    `threads` is its share of the cores, None where it has them to itself. `heartbeat_file` is its own, where each has
    one.
    """

    name: str
    model: str
    folder: Path | None
    device: str
    threads: int | None
    is_of_first_model: bool
    folders: tuple[Path, ...] = ()
    others: tuple[str, ...] = ()
    """What the further models in `folders` are called, as far as that is plain."""
    heartbeat_file: str | None = None

    def environment(self) -> dict[str, str]:
        """What this worker has for itself. What is said of the first model's folder is not meant for the others."""
        own = {"DARKROOM_DEVICE": self.device}
        own |= {"DARKROOM_MODELS": ",".join(map(str, self.folders))} if self.folders else {}
        own |= {"DARKROOM_MODEL": str(self.folder)} if self.folder else {}
        own |= {"DARKROOM_HEARTBEAT_FILE": self.heartbeat_file} if self.heartbeat_file else {}
        share = {} if self.threads is None else {"DARKROOM_THREADS": str(self.threads)}
        return own | share | ({} if self.is_of_first_model else dict.fromkeys(OF_ONE_MODEL, ""))

    def __str__(self) -> str:
        threads = "" if self.threads is None else f" with {self.threads} thread{'s' * (self.threads > 1)}"
        what = f"one of {', '.join(map(str, self.folders))}" if self.folders else self.model
        return f"{what} on {self.device}{threads}"


def plan(asked: Asked, machine: Machine, environment: Mapping[str, str]) -> tuple[PlannedWorker, ...]:
    """The workers in the order in which they start, the first model's first. `asked` is complete. Raises CannotPlan."""
    names, others = _names_in(asked.folders) if asked.folders else (_names(asked.models, environment), ())
    count = asked.workers or max(len(asked.models), len(asked.devices))
    _refuse_idle(asked, count)
    if count > 1 and (port := environment.get("DARKROOM_WORKER_METRICS_PORT")) and port != "0":
        raise CannotPlan("DARKROOM_WORKER_METRICS_PORT is one port for several workers; unset it, or let it be 0")
    devices = _dealt(asked, count, machine)
    on_cpu = devices.count(CPU)
    shared = on_cpu > 1 and not environment.get("DARKROOM_THREADS")
    share = max(1, machine.cores // on_cpu) if shared else None
    heartbeat_file = environment.get("DARKROOM_HEARTBEAT_FILE") if count > 1 else None
    workers = []
    for turn, device in enumerate(devices):
        at = turn % len(names)
        name = _process_name(names[at], is_of_first_model=at == 0, copy=turn // len(names))
        threads = share if device == CPU else None
        folder = asked.models[at] if asked.models else None
        beats = f"{heartbeat_file}.{name}" if heartbeat_file else None
        own = PlannedWorker(name, names[at], folder, device, threads, at == 0, asked.folders, others, beats)
        workers.append(own)
    return tuple(workers)


def _process_name(model: str, *, is_of_first_model: bool, copy: int) -> str:
    """No model's name has an @ in it."""
    return ("worker" if is_of_first_model else f"worker-{model}") + (f"@{copy + 1}" if copy else "")


def _names(models: Sequence[Path], environment: Mapping[str, str]) -> list[str]:
    chosen = environment.get("DARKROOM_MODEL_NAME")
    try:
        names = [model_name(folder, chosen if at == 0 else None) for at, folder in enumerate(models)]
    except IllegalName as error:
        raise CannotPlan(str(error)) from None
    _refuse_twice(names, "for more workers of one model there is --workers" if len(set(models)) < len(models) else "")
    # The workers judge what is in them; but this one fault is a slip of the hand, and told before anything starts.
    if missing := [each for each in models if not _exists(each)]:
        raise CannotPlan(f"the model folder {missing[0]} does not exist{_bundled_instead(missing[0])}")
    return names


def _bundled_instead(missing: Path) -> str:
    """What a word may have meant that is no path: one of the models that come along."""
    if len(missing.parts) > 1:
        return ""
    bundled = [each.name for each in sorted(BUNDLED_MODEL.parent.glob("*/")) if _draws(each)]
    return f"; the bundled models are {', '.join(bundled)}{hint(str(missing), bundled)}"


def _names_in(folders: Sequence[Path]) -> tuple[list[str], tuple[str, ...]]:
    """What the first model in them is called, "" where that is not plain, and what the others are. The worker judges
    them, and says so where it finds none."""
    if missing := [each for each in folders if not _exists(each)]:
        raise CannotPlan(f"the folder of models {missing[0]} does not exist")
    found = []
    for path in (model for folder in folders for model in _models_in(_meant(folder))):
        with suppress(IllegalName):
            found.append(model_name(path))
    _refuse_twice(found)
    return found[:1] or [""], tuple(found[1:])


def _models_in(folder: Path) -> list[Path]:
    """Itself, or those inside, by their names."""
    if _draws(folder):
        return [folder]
    return sorted(path for path in folder.glob("*/") if _draws(path) and not path.name.startswith("."))


def _draws(folder: Path) -> bool:
    return any((folder / name).is_file() for name in MODEL_FILES)


def _refuse_twice(names: Sequence[str], remedy: str = "") -> None:
    if twice := sorted(name for name, times in Counter(names).items() if times > 1):
        raise CannotPlan(f"two of the models are called {twice[0]}; rename a folder{'; ' if remedy else ''}{remedy}")


def _meant(folder: Path) -> Path:
    """A single word may be a bundled model's."""
    bundled = BUNDLED_MODEL.with_name(folder.name)
    return bundled if len(folder.parts) == 1 and not folder.exists() and bundled.exists() else folder


def _exists(folder: Path) -> bool:
    try:
        _meant(folder).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        # Nobody may look there, or nobody can: whoever tries to read it says why.
        return True
    return True


def _refuse_idle(asked: Asked, count: int) -> None:
    if count > MOST_WORKERS:
        raise CannotPlan(f"{count} workers are more than the {MOST_WORKERS} that one machine may have")
    for what, given in (("models", asked.models), ("devices", asked.devices)):
        if count < len(given):
            raise CannotPlan(f"{count} worker{'s' * (count > 1)} cannot have {len(given)} {what}: each takes one")
    for device in asked.devices:
        # One worker says itself what is wrong with DARKROOM_DEVICE: it may know more devices.
        if count > 1 and not _DEVICE.fullmatch(device):
            raise CannotPlan(f"the device {device} is unknown; name auto, cpu, cuda, cuda:1 or mps")


def _dealt(asked: Asked, count: int, machine: Machine) -> list[str]:
    """A device for each worker."""
    wanted = [asked.devices[turn % len(asked.devices)] for turn in range(count)]
    if count == 1:
        return wanted
    wanted = [*_without_auto(["cuda:0" if each == "cuda" else each for each in wanted], machine)]
    _refuse_shared(Counter(wanted), Counter("cuda:0" if each == "cuda" else each for each in asked.devices))
    return wanted


def _without_auto(wanted: Sequence[str], machine: Machine) -> Iterator[str]:
    """`auto` takes the next GPU that nobody named, and the CPU where there is no GPU at all."""
    if AUTO not in wanted:
        yield from wanted
        return
    gpus = machine.gpus()
    free = iter([gpu for gpu in gpus if gpu not in wanted])
    for device in wanted:
        if device != AUTO:
            yield device
        elif not gpus:
            yield CPU
        elif gpu := next(free, None):
            yield gpu
        else:
            there = "is 1 GPU" if len(gpus) == 1 else f"are {len(gpus)} GPUs"
            each = (gpus[turn % len(gpus)] for turn in range(len(wanted)))
            raise CannotPlan(f"{len(wanted)} workers do not find a GPU each: there {there}; {_to_share(each)}")


def _refuse_shared(taken: Counter[str], named: Counter[str]) -> None:
    """A device that was named several times is meant to be shared: each worker believes that its memory is free."""
    for device, times in taken.items():
        if device != CPU and times > max(1, named[device]):
            raise CannotPlan(f"{times} workers would take {device}; {_to_share([device] * times)}")


def _to_share(devices: Iterable[str]) -> str:
    options = " ".join(f"--device {device}" for device in devices)
    return f"start fewer, or name one that is shared once for each worker: {options}"
