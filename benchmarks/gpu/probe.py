"""Is it right? Before anything is timed for its own sake."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.gpu.models import STARTER, finish, full_size, native_lane, plan_of, request
from benchmarks.gpu.run import Run, ceilings, distance
from worker.engine.engine import Engine
from worker.engine.events import Finished, Preview
from worker.families.choose import family_of
from worker.models.bundle import load

ATTENTIONS = ((4096, 4096, 40), (4096, 77, 40), (1024, 1024, 80), (256, 77, 160), (64, 64, 160))
"""Tokens, keys and width of a head in Stable Diffusion's UNet: itself, and the 77 tokens of text."""


def probe(run: Run) -> None:
    run.section("ceilings", 5, ceilings)
    run.section("as on a CPU", 20, as_on_a_cpu)
    run.section("another thread", 15, on_another_thread)
    run.section("attention", 5, attention)
    run.section("captured", 30, a_captured_step_is_the_step)


def as_on_a_cpu(run: Run) -> None:
    """The bundled model: real weights, so that a difference of pictures means something."""
    drawn = {}
    places = (("cpu", "cpu", "float32"), ("gpu32", run.device, "float32"), ("gpu16", run.device, "float16"))
    for name, device, dtype in places:
        bundle = load(STARTER, device=str(device), dtype=dtype)
        engine = Engine(family_of(bundle), seats=8)
        for k, scheduler in enumerate(("ddim", "euler_a", "dpmpp_2m", "unipc")):
            guidance = 1.0 if k == 3 else 4.0
            engine.submit(
                request(
                    bundle,
                    str(k),
                    scheduler=scheduler,
                    num_inference_steps=8 + 2 * k,
                    seed=k,
                    guidance_scale=guidance,
                )
            )
        finished = [event for event in finish(engine) if isinstance(event, Finished)]
        drawn[name] = {event.request_id: torch.from_numpy(event.pictures[0]).float() for event in finished}
    for name in ("gpu32", "gpu16"):
        worst = max(float((drawn[name][k] - drawn["cpu"][k]).abs().mean()) for k in drawn["cpu"])
        run.note(f"starter on {name} beside the CPU", mean_grey_levels_off=worst)


def on_another_thread(run: Run) -> None:
    """Warmed up on one thread and stepped on another, with previews, as a worker does it."""
    bundle = load(STARTER, device=str(run.device), dtype="auto")
    engine = Engine(family_of(bundle), seats=4)
    engine.warm_up(seconds=run.warm_up_seconds)
    engine.submit(request(bundle, "seen", preview_every=2, scheduler="euler_a", guidance_scale=4.0))
    with ThreadPoolExecutor(1) as pool:
        events = pool.submit(finish, engine).result()
    run.note(
        "another thread, with previews",
        previews=sum(isinstance(event, Preview) for event in events),
        rescued=any(image.is_rescued for event in events if isinstance(event, Finished) for image in event.images),
    )


def attention(run: Run) -> None:
    """Which kernel is right, and fast, for the UNet's shapes."""
    backends = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION)
    for tokens, keys, width in ATTENTIONS[-1:] if run.small else ATTENTIONS:
        q = torch.randn(8, 8, tokens, width, device=run.device, dtype=torch.float16)
        k, v = (torch.randn(8, 8, keys, width, device=run.device, dtype=torch.float16) for _ in range(2))
        exact = torch.softmax(q[:1].float() @ k[:1].float().mT / width**0.5, -1) @ v[:1].float()
        figures: dict[str, object] = {
            "default_off_by": distance(scaled_dot_product_attention(q, k, v)[:1], exact),
            "default_us": 1e6 * run.seconds(lambda q=q, k=k, v=v: scaled_dot_product_attention(q, k, v), rounds=9),  # type: ignore[misc]
        }
        for backend in backends if run.on_gpu else ():
            name = backend.name.removesuffix("_ATTENTION").lower()
            try:
                with sdpa_kernel(backend):
                    figures[f"{name}_off_by"] = distance(scaled_dot_product_attention(q, k, v)[:1], exact)
                    figures[f"{name}_us"] = 1e6 * run.seconds(
                        lambda q=q, k=k, v=v: scaled_dot_product_attention(q, k, v),  # type: ignore[misc]
                        rounds=9,
                    )
            except RuntimeError as reason:
                figures[name] = str(reason)[:60]
        run.note(f"attention {tokens} x {keys}, {width} wide", **figures)


def a_captured_step_is_the_step(run: Run) -> None:
    """The same steps on equal buffers, eager and as graphs. What moved nothing was not captured."""
    for dtype in (torch.float32,) if run.small else (torch.float32, torch.float16, torch.bfloat16):
        bundle = full_size(run, "sd", dtype)
        lanes = native_lane(bundle, "off"), native_lane(bundle, "on" if run.on_gpu else "off")
        before = lanes[0].step.state[1].clone()
        flags = torch.zeros(1)
        with torch.inference_mode():
            for rows in (4, 8, 4, 16):
                flags = [lane.run(plan_of(lane, rows)) for lane in lanes][1]
        eager, captured = (lane.step.state[1:] for lane in lanes)
        run.note(
            f"graph equals eager, {dtype}",
            bits=torch.equal(eager, captured),
            off_by=distance(captured, eager),
            finite=bool(flags.all()),
            moved=not torch.equal(captured[0], before),
        )
