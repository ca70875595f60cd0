"""More latent channels for a finished model: `python -m recipes.starter.widen --start FOLDER --channels 12`.

Knows principal components and the convolutions of a UNet and of AutoencoderTiny; trains nothing. The components of the
encoder stay and get more beside them, those of what they leave over. UNet and decoder, which may become wider and
deeper, compute at first what they computed (Net2Net, Chen et al. 2016, arXiv 1511.05641): what is new counts for
nothing yet. Leaves a model folder in `start/` of the work folder, for `train_decoder` and `train_unet` with
`--start WORK/start`.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from recipes.starter import adopt, autoencoder, sprites, tokens, train_decoder
from recipes.starter.assemble import pipeline
from recipes.starter.autoencoder import Components
from recipes.starter.compose import Composer
from recipes.starter.networks import FULL, Sizes
from recipes.starter.stream import BUCKETS, Bucket


def extended(parts: Components, rows: torch.Tensor, channels: int) -> Components:
    """`parts` and the components of what they leave over of patches [n, 192], `channels` in all.

    Raises ValueError if `parts` have as many already.
    """
    known = parts.basis.shape[1]
    if channels <= known:
        raise ValueError(f"The model has {known} latent channels already; ask for more than that.")
    basis = parts.basis.double()
    centred = rows.double() - parts.mean.double()
    rest = autoencoder.fit_patches(centred - centred @ basis @ torch.linalg.pinv(basis), channels - known)
    # A mean that the new components see as zero and the old ones as before.
    across = torch.cat([basis, rest.basis.double()], 1)
    means = torch.cat([parts.mean.double() @ basis, (parts.mean + rest.mean).double() @ rest.basis.double()])
    return Components((means @ torch.linalg.pinv(across)).float(), across.float())


def widened(unet: Any, channels: int) -> Any:
    """A copy of `unet` for latents of so many channels that ignores the new ones and predicts 0 for them."""
    known = unet.config.in_channels
    wide = type(unet).from_config({**unet.config, "in_channels": channels, "out_channels": channels})
    weights = copy.deepcopy(unet.state_dict())
    for name, axis in (("conv_in.weight", 1), ("conv_out.weight", 0), ("conv_out.bias", 0)):
        shape = list(weights[name].shape)
        shape[axis] = channels - known
        weights[name] = torch.cat([weights[name], torch.zeros(shape)], axis)
    wide.load_state_dict(weights)
    return wide


def grown(decoder: Any, into: Any) -> None:
    """Write `decoder` into the bigger `into`, both of AutoencoderTiny.

    Channels that `into` has beside the old ones keep their random weights and are not listened to; blocks behind a
    stage's old ones add zero, which leaves their input as it is, because it comes out of a ReLU. Raises ValueError if
    `into` is smaller, or has blocks in a stage that had none.
    """
    for old, new in zip(_stages(decoder), _stages(into), strict=True):
        if len(old) > len(new) or 1 == len(old) < len(new):
            raise ValueError("The new decoder has fewer blocks than the old one, or some in a stage that had none.")
        *blocks, convolution = old
        for number, block in enumerate(new[:-1]):
            if number < len(blocks):
                for source, target in zip(_convolutions(blocks[number]), _convolutions(block), strict=True):
                    _write_corner(source, target)
            else:
                last = _convolutions(block)[-1]
                torch.nn.init.zeros_(last.weight)
                torch.nn.init.zeros_(last.bias)
        _write_corner(convolution, new[-1])


def _stages(decoder: Any) -> list[list[Any]]:
    """What has weights, cut behind each convolution between the stages: the first, then blocks and one, and so on."""
    stages: list[list[Any]] = [[]]
    for layer in decoder.layers:
        if not _convolutions(layer):
            continue
        stages[-1].append(layer)
        if isinstance(layer, torch.nn.Conv2d):
            stages.append([])
    return stages[:-1]


def _convolutions(layer: Any) -> list[torch.nn.Conv2d]:
    return [part for part in layer.modules() if isinstance(part, torch.nn.Conv2d)]


def _write_corner(source: torch.nn.Conv2d, target: torch.nn.Conv2d) -> None:
    outputs, inputs = source.weight.shape[:2]
    if outputs > len(target.weight) or inputs > target.weight.shape[1]:
        raise ValueError("The new decoder is narrower than the old one.")
    with torch.no_grad():
        target.weight[:outputs] = 0
        target.weight[:outputs, :inputs] = source.weight
        if source.bias is not None and target.bias is not None:
            target.bias[:outputs] = source.bias


def widen(
    start: Path,
    work: Path,
    channels: int,
    composer: Composer,
    *,
    sizes: Sizes = FULL,
    buckets: Sequence[Bucket] = BUCKETS,
) -> None:
    """The model folder `start` with so many latent channels, as `work / "start"`. The decoder's layout is `sizes`'."""
    rows = train_decoder.sample_patches(composer, buckets)
    known = adopt.autoencoder_of(start)
    parts = extended(autoencoder.components_of(known), rows, channels)
    text_encoder, unet = adopt.networks_of(start)
    vae = autoencoder.build(parts, sizes)
    grown(known.decoder, vae.decoder)
    pipe = pipeline(
        tokenizer=tokens.load(start / "tokenizer"),
        text_encoder=text_encoder,
        unet=widened(unet, channels),
        vae=vae,
    )
    pipe.save_pretrained(work / "start", safe_serialization=True)
    tokens.save(pipe.tokenizer, work / "start" / "tokenizer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/starter"), help="has sprites.npz")
    parser.add_argument("--start", type=Path, default=Path("models/starter"), help="model folder")
    parser.add_argument("--channels", type=int, default=FULL.latent_channels)
    options = parser.parse_args()
    widen(options.start, options.work, options.channels, Composer(sprites.load(options.work / "sprites.npz")))


if __name__ == "__main__":
    main()
