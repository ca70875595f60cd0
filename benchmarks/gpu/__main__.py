from __future__ import annotations

import argparse

import torch

import benchmarks.gpu
from benchmarks.gpu.arrivals import trace
from benchmarks.gpu.bits import bits
from benchmarks.gpu.compiled import compiled
from benchmarks.gpu.fewer import fewer
from benchmarks.gpu.probe import probe
from benchmarks.gpu.run import Run
from benchmarks.gpu.speed import speed, xl
from benchmarks.report import add_option
from worker.models.quiet import quiet_libraries

PARTS = {part.__name__: part for part in (probe, bits, speed, trace, xl, compiled, fewer)}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu", description=benchmarks.gpu.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--small", action="store_true", help="on tiny models, to try the script itself on a CPU")
    add_option(parser)
    options = parser.parse_args()
    quiet_libraries()
    run = Run(options)
    if run.on_gpu:
        torch.cuda.set_device(run.device)
        run.note("machine", cudnn=torch.backends.cudnn.version(), cuda=torch.version.cuda)
    PARTS[options.part](run)


if __name__ == "__main__":
    main()
