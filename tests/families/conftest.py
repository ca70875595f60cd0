"""As in tests/engine: in one thread, since several wait for each other over numbers this small, on a busy machine for
minutes."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
