"""``ETag`` and ``If-Match``: whoever changes something must have seen what is live (RFC 9110, section 13.1.1)."""

from __future__ import annotations

from django.utils.http import parse_etags
from rest_framework.request import Request

from models_registry.deployments import Precondition
from models_registry.models import Deployment
from ops.contracts.problems import PreconditionFailed, PreconditionRequired


def etag_of(deployment: Deployment) -> str:
    """A strong tag: another one as soon as something else answers in the scope."""
    return f'"{deployment.pk}"'


def precondition_of(request: Request) -> Precondition:
    """The check that the request's ``If-Match`` asks for. Raises `PreconditionRequired` without one."""
    header = request.headers.get("If-Match")
    if header is None:
        raise PreconditionRequired("Send If-Match with the ETag of the last GET, so that nobody's change is lost.")
    accepted = parse_etags(header)

    def check(current: Deployment | None) -> None:
        if current is not None and (accepted == ["*"] or etag_of(current) in accepted):
            return
        now = None if current is None else etag_of(current)
        raise PreconditionFailed("Something else is live now: read it again, then decide.", current_etag=now)

    return check
