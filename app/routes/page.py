"""The web page, and the pages that explain what went wrong. Static files and generated HTML, no template engine."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles

from app.edge.errors import NotFound
from app.edge.problem import Problem
from app.edge.problems import JOB_PROBLEMS
from app.routes.page_parameters import parameters_module
from app.services import Services, TheServices

router = APIRouter(include_in_schema=False)

STATIC = Path(__file__).parents[1] / "static"
static_files = StaticFiles(directory=STATIC)

TEXT_POLICY = "default-src 'none'; style-src 'self'; base-uri 'none'; frame-ancestors 'none'"


def page_policy(picture_sources: Iterable[str]) -> str:
    """Content-Security-Policy of the page: its own files, and pictures from where the store serves them."""
    images = " ".join(["'self'", *picture_sources])
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src {images} data:; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )


@router.get("/")
async def page(services: TheServices) -> Response:
    """The page itself; everything it shows it asks from the API."""
    sources: list[str] = []
    if services.pictures.can_sign:
        settings = services.settings
        endpoint = settings.storage_public_endpoint or settings.storage_endpoint
        sources = [endpoint] if endpoint else ["https:"]
    html = _below(services.settings.prefix, (STATIC / "index.html").read_text())
    return HTMLResponse(html, headers={"Content-Security-Policy": page_policy(sources)})


@router.get("/admin")
async def admin(services: TheServices) -> Response:
    """The operator's page. It shows nothing by itself: the API decides who may see what."""
    html = _below(services.settings.prefix, (STATIC / "admin.html").read_text())
    return HTMLResponse(html, headers={"Content-Security-Policy": page_policy(()), "Cache-Control": "no-cache"})


@router.get("/static/parameters.js")
async def parameters() -> Response:
    """The one file of the page that is made here: it never differs from what the API takes."""
    return Response(parameters_module(), media_type="text/javascript", headers={"Cache-Control": "no-cache"})


@router.get("/problems")
@router.get("/problems/")
async def list_problems(services: TheServices) -> Response:
    """Every problem, one line each."""
    rows = [(kind.slug, f"{kind.status} {kind.title}") for kind in Problem.below()]
    jobs = [(slug, problem.title) for slug, problem in JOB_PROBLEMS.items()]
    return _html("Problems", f"<h2>Answers</h2>{_links(rows)}<h2>Failed jobs</h2>{_links(jobs)}", services)


@router.get("/problems/{slug}")
async def problem(slug: str, services: TheServices) -> Response:
    """What one `type` means and what helps."""
    found: list[tuple[str, str]] = []
    for kind in Problem.below():
        if kind.slug == slug:
            found.append((f"{kind.title} ({kind.status})", kind.meaning()))
    if slug in JOB_PROBLEMS:
        found.append((f"A job failed: {JOB_PROBLEMS[slug].title.lower()}", JOB_PROBLEMS[slug].meaning))
    if not found:
        raise NotFound("There is no problem of this name; /problems/ lists all.")
    sections = "".join(f"<h2>{escape(title)}</h2>{_paragraphs(text)}" for title, text in found)
    return _html(slug, f'{sections}<p><a href="/problems/">All problems</a></p>', services)


def _below(prefix: str, html: str) -> str:
    """The page with its own absolute paths below the proxy's prefix. No text is touched: quotes in it are escaped."""
    return html.replace('="/', f'="{prefix}/') if prefix else html


def _html(title: str, body: str, services: Services) -> Response:
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f'<title>{escape(title)} - Darkroom</title><link rel="stylesheet" href="/static/page.css">'
        f"<main><h1>{escape(title)}</h1>{body}</main></html>"
    )
    html = _below(services.settings.prefix, text)
    return HTMLResponse(html, headers={"Content-Security-Policy": TEXT_POLICY})


def _links(rows: Iterable[tuple[str, str]]) -> str:
    items = (f'<li><a href="/problems/{escape(slug)}">{escape(slug)}</a>: {escape(text)}' for slug, text in rows)
    return f"<ul>{''.join(items)}</ul>"


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{escape(part)}</p>" for part in text.split("\n\n"))
