"""What every answer tells the browser not to do."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpResponseBase

from ops.middleware import Middleware
from ops.requests import Request

POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    # data: for the icons inside the style sheets of the admin and of Swagger UI; a picture runs nothing.
    "img-src": "'self' data:",
    "font-src": "'self'",
    "connect-src": "'self'",
    "media-src": "'self' blob:",
    "worker-src": "'self'",
    "manifest-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
"""Content-Security-Policy level 3: nothing from elsewhere, nothing inline, no frames."""

PERMISSIONS = "camera=(), geolocation=(), microphone=(self), payment=(), usb=(), browsing-topics=()"


class SecurityHeadersMiddleware(Middleware):
    """Sets ``Content-Security-Policy`` and its neighbours, unless the view has set its own."""

    def after(self, request: Request, response: HttpResponseBase) -> None:
        response.headers.setdefault("Content-Security-Policy", content_security_policy())
        response.headers.setdefault("Permissions-Policy", PERMISSIONS)
        response.headers.setdefault("Cross-Origin-Resource-Policy", "same-origin")


def content_security_policy() -> str:
    """The header's value; where pages are served over HTTPS only, it also asks for nothing over HTTP."""
    policy = "; ".join(f"{name} {sources}" for name, sources in POLICY.items())
    return f"{policy}; upgrade-insecure-requests" if settings.SECURE_SSL_REDIRECT else policy
