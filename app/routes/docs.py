"""The page /docs, on which each route can be tried. Its scripts come from a public CDN: the operator has to want it."""

from __future__ import annotations

from fastapi import Request
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import Response

DOCS_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' https://cdn.jsdelivr.net; "
    "style-src 'unsafe-inline' https://cdn.jsdelivr.net; img-src data: https://fastapi.tiangolo.com; "
    "connect-src 'self'; frame-ancestors 'none'"
)


async def show(request: Request) -> Response:
    prefix = request.app.state.settings.prefix
    page_html = get_swagger_ui_html(openapi_url=f"{prefix}/openapi.json", title="Darkroom")
    page_html.headers["Content-Security-Policy"] = DOCS_POLICY
    return page_html
