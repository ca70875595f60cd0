"""Can this folder be served? One answer for `darkroom doctor` and for the worker that would load it.

Reads JSON files, tokenizers and the headers of safetensors files, and no weights: all that can be told without them is,
and all of it at once. What needs the worker's packages lies in shapes.py; without them the verdict says what is open.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app.contract.messages.card import Safety
from worker.models.configs import Config, config_of, last_network, native_size, side_multiple, vae_scale_factor
from worker.models.controlnets import NO_CONTROLNETS, ControlNetFiles, KeptFolder, OfModel, read_controlnets
from worker.models.defaults import Defaults, read_defaults
from worker.models.errors import ModelError
from worker.models.fit import misfits
from worker.models.folder import DEFAULTS, WEIGHTS, ModelFolder, Weights, file_fault, weight_map
from worker.models.hashes import MANIFEST, read_manifest
from worker.models.headers import HeaderError, Tensor, read_header
from worker.models.need import Need, Rooms, need_of
from worker.models.pipelines import SAFETY_CHECKER
from worker.models.tokens import tokenizer_file_faults
from worker.models.unsafe import unsafe_faults

LIBRARIES = ("diffusers", "transformers", "stable_diffusion", "unclip")
"""As model_index.json names them; the last two are folders of diffusers, where it keeps what one pipeline alone has."""

NEEDS_PACKAGES = "names and shapes of tensors, tokenizer, scheduler (they need darkroom[worker])"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`faults`: reasons not to serve the folder, one sentence each with the remedy; none for a good one. `notes`: what
    the operator should know all the same. `unjudged`: what could not be looked at here.

    `folder` and `defaults` are None where faults stand in the way; `need` is what a start takes. `controlnets` are
    those that fit; the notes say which were left out.
    """

    path: Path
    folder: ModelFolder | None = None
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unjudged: str = ""
    defaults: Defaults | None = None
    need: Need | None = None
    controlnets: ControlNetFiles = NO_CONTROLNETS


def judge(
    path: Path,
    *,
    dtype: str = "float32",
    rooms: Rooms | None = None,
    controlnets: KeptFolder | None = None,
    vae: Path | None = None,
    prior: Path | None = None,
    safety: Safety = "off",
) -> Verdict:
    """The verdict on a folder, also on one that does not exist, for a model that runs in `dtype`, in torch's words.

    Without `rooms`, the memory that there is for it, what it needs is told and not judged. `vae` is a folder whose VAE
    is to take the place of the model's own, `prior` the one before it, where a model comes in two. With a `safety`
    other than off, a model without a safety checker cannot be served.
    """
    try:
        folder = ModelFolder(path, vae=vae, prior=prior, checked=safety != "off")
        return _Examination(folder).verdict(dtype, rooms, controlnets, safety)
    except ModelError as error:
        return Verdict(path=path, faults=error.faults)
    except OSError as error:  # a folder into which this user may not look
        return Verdict(path=path, faults=(f"{error.filename or path} cannot be read ({error.strerror}).",))


class _Examination:
    """Walks through the parts of a folder and writes down what it finds."""

    def __init__(self, folder: ModelFolder) -> None:
        self.folder = folder
        self.faults: list[str] = []
        self.notes: list[str] = []
        self.configs: dict[str, Config] = {}
        self.tensors: dict[str, dict[str, Tensor]] = {}

    def verdict(self, dtype: str, rooms: Rooms | None, controlnets: KeptFolder | None, safety: Safety) -> Verdict:
        folder = self.folder
        self.faults += unsafe_faults(folder)
        if folder.checked and not folder.has_checker:
            self.faults.append(_no_checker(folder, safety))
        parts = [part for part in folder.components if self._is_named(part)]
        for part in parts:
            if part in WEIGHTS:
                self._look_at_weights(part)
        for part in (part for part in parts if "tokenizer" in part):
            self.faults += tokenizer_file_faults(folder.part(part))
        whole = set(self.configs) == set(folder.weighted) and "scheduler" in parts
        defaults = self._look_at_the_whole() if whole else None
        unjudged = self._look_with_packages(parts, defaults)
        self._look_at_manifest()
        need, beside = None, NO_CONTROLNETS
        if defaults and set(self.tensors) == set(self.configs):
            beside = self._look_at_controlnets(controlnets) if controlnets else beside
            elements = {part: sum(each.elements for each in found.values()) for part, found in self.tensors.items()}
            need = need_of(folder, self.configs, elements, defaults, dtype)
            if rooms:
                self.faults += rooms.faults(need, folder.path)
                self.notes += rooms.notes(need, folder.path)
        return Verdict(
            path=folder.path,
            folder=folder,
            faults=tuple(dict.fromkeys(self.faults)),
            notes=tuple(self.notes),
            unjudged=unjudged,
            defaults=defaults,
            need=need,
            controlnets=beside,
        )

    @contextmanager
    def _noting(self) -> Iterator[None]:
        try:
            yield
        except ModelError as error:
            self.faults += error.faults

    def _is_named(self, component: str) -> bool:
        """Does model_index.json name a class that is served, and is the part's folder there?"""
        (path, name), entry = self.folder.home(component), self.folder.index.get(component)
        if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)):
            self.faults.append(f"model_index.json in {path} names no {name}; {self._remedy(component)}.")
            return False
        library, cls = entry
        allowed = self.folder.components[component]
        if library not in LIBRARIES or (allowed and cls not in allowed):
            supported = " or ".join(allowed) or "those of diffusers"
            self.faults.append(f"The {name} of {path} is a {library}.{cls}; supported: {supported}.")
            return False
        if not self.folder.part(component).is_dir():
            self.faults.append(f"{path} has no folder {name}; fetch the whole model.")
            return False
        return True

    def _remedy(self, component: str) -> str:
        if not component.startswith("prior") or "image_normalizer" not in self.folder.components:
            return "fetch the whole model"
        return (
            "a decoder without a prior is a StableUnCLIPImg2ImgPipeline; `darkroom models compose` writes a whole model"
        )

    def _look_at_weights(self, component: str) -> None:
        with self._noting():
            config = config_of(self.folder, component)
            if config.get("quantization_config"):
                raise ModelError(f"{self.folder.part(component)} is quantized; take the model's float16 weights.")
            self.configs[component] = config
        with self._noting():
            self.tensors[component] = read_tensors(self.folder, component)

    def _look_at_the_whole(self) -> Defaults | None:
        """Do the parts fit each other, and what is the model good at?"""
        folder = self.folder
        before = len(self.faults)
        try:
            self.faults += misfits(folder, self.configs)
            self.faults += self._another_scale()
        except (TypeError, ValueError, KeyError, OverflowError) as error:
            self.faults.append(f"A config.json in {folder.path} has an impossible value ({error}); fetch it again.")
        if len(self.faults) > before:
            return None
        width, height = native_size(folder, self.configs)
        if last_network(self.configs)["sample_size"] is None and not (folder.path / DEFAULTS).is_file():
            self.notes.append(
                f"{folder.config_file('unet')} does not say at which size the model was trained: {width} x {height} is "
                f"assumed; if that is wrong, write width and height into {folder.path / DEFAULTS}."
            )
        with self._noting():
            return read_defaults(
                folder,
                width=width,
                height=height,
                side_multiple=side_multiple(folder, self.configs),
                scheduler=folder.class_of("scheduler"),
            )
        return None

    def _another_scale(self) -> Iterator[str]:
        """A sentence for each number in which a VAE from elsewhere differs from the model's own: what its pictures
        would be made of is not what the UNet draws."""
        if self.folder.vae is None or not (self.folder.path / "vae" / "config.json").is_file():
            return
        alone = self.folder.without_vae()
        own, other = config_of(alone, "vae"), self.configs["vae"]
        facts = {"pixels per latent": vae_scale_factor, "latent channels": lambda config: config["latent_channels"]}
        if self.folder.class_of("vae") == alone.class_of("vae"):
            # AutoencoderTiny scales by itself.
            facts["scaling_factor"] = lambda config: config["scaling_factor"]
        for what, fact in facts.items():
            if fact(other) != fact(own):
                yield (
                    f"DARKROOM_VAE: {self.folder.vae} was made for another model "
                    f"({what} {fact(other)}, the model's own VAE has {fact(own)}); take one for this kind of model."
                )

    def _look_at_controlnets(self, controlnets: KeptFolder) -> ControlNetFiles:
        """Those that fit this model. One that does not is no reason not to serve the others."""
        if "vae" not in self.configs:
            self.notes.append(
                f"A {self.folder.pipeline.name} takes no ControlNets: those in {controlnets.folder} wait."
            )
            return NO_CONTROLNETS
        unet, vae = self.configs["unet"], self.configs["vae"]
        model = OfModel(unet, self.tensors["unet"], vae["latent_channels"], vae_scale_factor(vae))
        with self._noting():
            found = read_controlnets(controlnets, model)
            self.notes += (f"Left out: {fault}" for fault in found.faults)
            return found
        return NO_CONTROLNETS

    def _look_with_packages(self, parts: list[str], defaults: Defaults | None) -> str:
        """Let diffusers and transformers look. Returns what is open because they are not here."""
        try:
            from worker.models import shapes
        except ImportError as error:
            return f"{NEEDS_PACKAGES}: {error}"
        for part, tensors in self.tensors.items():
            if part in self.configs:
                self.faults += shapes.tensor_faults(self.folder, part, tensors)
        self.faults += shapes.tokenizer_faults(self.folder, self.configs)
        for part in (SAFETY_CHECKER, "image_encoder"):
            if part in self.configs and "feature_extractor" in parts:
                self.faults += shapes.preparation_faults(self.folder, part)
        if "scheduler" in parts:
            with self._noting():
                self.folder.config("scheduler")
                self.faults += shapes.scheduler_faults(self.folder, defaults.scheduler if defaults else None)
        return ""

    def _look_at_manifest(self) -> None:
        """Is every file in it there, and every file that is opened in it? Its hashes are compared when all is read."""
        manifest = self.folder.path / MANIFEST
        if not manifest.is_file():
            return
        said = " ".join(self.faults)
        with self._noting():
            listed = set(read_manifest(manifest))
            names = (self.folder.relative(file) for file in self.folder.loaded_files())
            opened = {name for name in names if not self.folder.is_elsewhere(name)}
            missing = [name for name in sorted(listed - opened) if not (self.folder.path / name).is_file()]
            raise_all(
                f"{self.folder.path / name} is {wrong} {MANIFEST}; fetch the model again."
                for names, wrong in ((sorted(opened - listed), "not listed in"), (missing, "missing, but listed in"))
                for name in names
                if str(self.folder.path / name) not in said
            )


def _no_checker(folder: ModelFolder, safety: Safety) -> str:
    none = "names none" if folder.pipeline.checker else f"is of a {folder.pipeline.name}, which has none"
    return (
        f"{folder.path} has no safety checker (its model_index.json {none}), and DARKROOM_SAFETY={safety} needs one: "
        "take a model that comes with one, or set DARKROOM_SAFETY=off."
    )


def read_tensors(folder: ModelFolder, component: str) -> dict[str, Tensor]:
    """The tensors of a part by name, from the headers of its files. Raises ModelError with all that is wrong."""
    return tensors_in(folder.weights(component), folder.part(component))


def tensors_in(weights: Weights, path: Path) -> dict[str, Tensor]:
    """The same of the weights of whatever lies at `path`."""
    found, faults = {}, []
    for file in weights.files:
        try:
            if fault := file_fault(file):
                raise ModelError(fault)
            found[file.name] = read_header(file)
        except HeaderError as error:
            faults.append(f"{file} {error}.")
        except ModelError as error:
            faults += error.faults
    raise_all(faults)
    tensors = {name: tensor for each in found.values() for name, tensor in each.items()}
    if weights.index:
        named = weight_map(weights.index)
        lying = {name: file for name, file in named.items() if name not in found[file]}
        lying |= dict.fromkeys(tensors.keys() - named.keys(), "")
        if lying:
            raise ModelError(f"{weights.index} and its files disagree about {min(lying)}; fetch them again.")
    if any(tensor.dtype in ("I8", "U8", "BOOL") for tensor in tensors.values()):
        raise ModelError(f"The weights in {path} are quantized; take the model's float16 weights.")
    return tensors


def raise_all(faults: Iterable[str]) -> None:
    if found := list(faults):
        raise ModelError(*found)
