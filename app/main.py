"""The gateway as an ASGI application: services in the lifespan, routers, one error handler, the guard in front.

Knows how the parts are put together. Refuses to know what any of them does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI

from app import __version__
from app.a1111 import body as a1111_body
from app.a1111 import errors as a1111_errors
from app.a1111 import lists as a1111_lists
from app.a1111 import routes as a1111
from app.admin import aliases as admin_aliases
from app.admin import changes as admin_changes
from app.admin import routes as admin
from app.contract.common.tracing import close_provider, open_provider
from app.edge import error_handler
from app.edge.auth import Authenticator
from app.edge.bodies import JSON, WITH_PICTURES, BodyRule, BodyRules
from app.edge.cors import Cors
from app.edge.guard import Guard, Hosts
from app.edge.head import HeadAsGet
from app.edge.limiter import Doorkeeper
from app.edge.metrics import Counted, GatewayMetrics
from app.edge.pages import Pages
from app.edge.refusals import Refusals
from app.edge.tracing import FASTAPIS_OWN, Traced
from app.edge.waiting import end
from app.huggingface import errors as huggingface_errors
from app.huggingface import routes as huggingface
from app.jobs.housekeeping import Housekeeper
from app.jobs.queue_metrics import QueueMetrics
from app.openai import embeddings
from app.openai import errors as openai_errors
from app.openai import pictures as openai_pictures
from app.openai import routes as openai
from app.replicate import files as replicate_files
from app.replicate import input as replicate_input
from app.replicate import models as replicate_models
from app.replicate import routes as replicate
from app.routes import docs, events, health, images, inputs, jobs, key, models, page, score, trajectory, usage, webhooks
from app.routes.openapi import complete
from app.services import Services
from app.settings import Settings
from app.wiring import open_services, redis_clients

FIRST_LOOK_SECONDS = 5.0
"""A start waits so long for Redis and the picture store to say whose the store is."""

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")

SERVED = (
    # Before jobs: /v1/jobs/events is no job's id.
    events,
    jobs,
    inputs,
    webhooks,
    images,
    trajectory,
    models,
    score,
    openai,
    embeddings,
    huggingface,
    replicate,
    replicate_models,
    replicate_files,
    a1111,
    a1111_lists,
    admin,
    admin_changes,
    usage,
    key,
    admin_aliases,
    health,
    page,
)
"""Modules with a `router`, in the order in which a path is looked up."""


def create_app(settings: Settings, *, metrics: GatewayMetrics | None = None) -> FastAPI:
    """The application for these settings. Starts without Redis; /readyz tells when it is there."""
    app = FastAPI(
        title="Darkroom",
        version=__version__,
        description="Text to image: send a job in, follow it, fetch its pictures.",
        lifespan=_lifespan,
        redirect_slashes=False,
        docs_url=None,
        redoc_url=None,
        servers=[{"url": settings.public_url}] if settings.public_url else None,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        telemetry=FASTAPIS_OWN,
    )
    app.state.settings = settings
    refusals = _refusals(settings)
    error_handler.install(app, refusals)
    app.state.metrics = metrics or GatewayMetrics(process=0)
    app.state.doorkeeper = Doorkeeper(_authenticator(settings))
    app.add_middleware(HeadAsGet)
    app.add_middleware(
        Guard,
        doorkeeper=app.state.doorkeeper,
        hosts=Hosts.of(_host_names(settings)),
        pages=Pages.of(_page_origins(settings)),
        body_seconds=settings.body_seconds,
        refusals=refusals,
        bodies=_bodies(settings),
        cells=settings.known_cells(),
    )
    if settings.cors_origins:
        app.add_middleware(Cors, origins=settings.cors_origins)
    app.add_middleware(Counted, metrics=app.state.metrics)
    app.state.traces = open_provider("darkroom-gateway", version=__version__)
    if app.state.traces is not None:
        app.add_middleware(Traced, tracer=app.state.traces.get_tracer("darkroom.gateway", __version__))
    for module in SERVED:
        app.include_router(module.router)
    app.mount("/static", page.static_files)
    if settings.docs:
        app.add_api_route("/docs", docs.show, include_in_schema=False)
    _describe(app, keyed=bool(settings.keys()) or settings.require_keys)
    return app


def _authenticator(settings: Settings) -> Authenticator:
    token = settings.operator_token
    operator_token = token.get_secret_value() if token else None
    return Authenticator(settings.keys(), required=settings.require_keys, operator_token=operator_token)


def _refusals(settings: Settings) -> Refusals:
    """Each dialect's own way to say no, by its paths."""
    return Refusals(
        prefix=settings.prefix,
        writers={
            **dict.fromkeys(openai_errors.PATHS, openai_errors.write),
            **dict.fromkeys(huggingface_errors.PATHS, huggingface_errors.write),
            **dict.fromkeys(a1111_errors.PREFIXES, a1111_errors.write),
        },
        members={openai_errors.CLIENT: openai_errors.member},
        not_served=a1111_errors.NOT_SERVED,
    )


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings: Settings = app.state.settings
    commands, waiting = redis_clients(settings.redis_url.get_secret_value())
    services = open_services(settings, commands, waiting)
    app.state.services = services
    doorkeeper: Doorkeeper = app.state.doorkeeper
    doorkeeper.authenticator.keyring, doorkeeper.limiter = services.keyring, services.limiter
    doorkeeper.stream_tokens = services.stream_tokens
    metrics: GatewayMetrics = app.state.metrics
    metrics.registry.register(
        QueueMetrics(
            process=metrics.process,
            feed=services.feed,
            registry=services.registry,
            stats=services.queue_stats,
            overview=services.overview,
            accepted=services.jobs.accepted,
        )
    )
    looks = asyncio.create_task(services.keyring.keep_looking())
    housekeeper = Housekeeper(
        services.jobs, services.pictures, services.mark, services.inputs, closing=services.closing
    )
    rounds = asyncio.create_task(housekeeper.run())
    marks = asyncio.create_task(services.mark.keep_looking())
    # A second cell on this store takes not even its first job.
    with suppress(TimeoutError):
        async with asyncio.timeout(FIRST_LOOK_SECONDS):
            await services.mark.has_looked.wait()
    streams = asyncio.create_task(_end_streams(services))
    try:
        yield
    finally:
        services.closing.set()
        await end(looks)
        await end(marks)
        await asyncio.gather(streams, rounds, return_exceptions=True)
        await asyncio.to_thread(services.inputs.close)
        await commands.aclose()
        await waiting.aclose()
        if app.state.traces is not None:
            await asyncio.to_thread(close_provider, app.state.traces)


async def _end_streams(services: Services) -> None:
    await services.closing.wait()
    await services.feed.close()


def _bodies(settings: Settings) -> BodyRules:
    """What the bodies of routes may be that take more than 64 KiB of JSON."""
    with_pictures = BodyRule({JSON: WITH_PICTURES}, taken_out=frozenset({"b64"}))
    return BodyRules(
        {
            "/v1/inputs": inputs.body_rule(settings.input_bytes),
            **dict.fromkeys(("/v1/jobs", "/v1/score", "/v1/embeddings", "/v1/images/generations"), with_pictures),
            **dict.fromkeys(huggingface_errors.PATHS, BodyRule({JSON: WITH_PICTURES}, huggingface.TAKEN_OUT)),
            "/v1/files": replicate_files.body_rule(settings.input_bytes),
            **dict.fromkeys(
                ("/v1/predictions", "/v1/models/*/*/predictions"),
                BodyRule({JSON: WITH_PICTURES}, replicate_input.TAKEN_OUT),
            ),
            **openai_pictures.body_rules(settings.input_bytes),
            **dict.fromkeys(a1111_body.WITH_PICTURES, BodyRule({JSON: WITH_PICTURES}, a1111_body.PICTURES)),
        }
    )


def _host_names(settings: Settings) -> tuple[str, ...]:
    if settings.allowed_hosts or not settings.is_local:
        return settings.allowed_hosts
    public = settings.public_url.split("://", 1)[1].split("/", 1)[0].rsplit(":", 1)[0] if settings.public_url else None
    return (*LOOPBACK_NAMES, public) if public else LOOPBACK_NAMES


def _page_origins(settings: Settings) -> tuple[str, ...]:
    """The own one too: a proxy may give another Host to the gateway."""
    own = urlsplit(settings.public_url.lower()) if settings.public_url else None
    return (*settings.cors_origins, f"{own.scheme}://{own.netloc}") if own else settings.cors_origins


def _describe(app: FastAPI, *, keyed: bool) -> None:
    """Make the OpenAPI say what the guard and the error handler do."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            complete(generate(), keyed=keyed)
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]
