"""`python -m worker.devices`: the GPUs that torch sees here, as a JSON list of their names for settings.

For `darkroom up`, which may not import torch. Knows nothing of models, and looks at no memory.
"""

from __future__ import annotations

import json

import torch


def gpus() -> list[str]:
    """["cuda:0", "cuda:1"], as CUDA_VISIBLE_DEVICES counts them."""
    return [f"cuda:{number}" for number in range(torch.cuda.device_count())]


if __name__ == "__main__":
    print(json.dumps(gpus()))
