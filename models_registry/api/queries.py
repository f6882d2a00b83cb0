"""What views read from a request: who asks, and the query string as strictly as a body."""

from __future__ import annotations

from typing import Any, cast

from rest_framework.request import Request

from ops.api.fields import StrictSerializer
from ops.contracts.principal import Principal


def principal_of(request: Request) -> Principal:
    """Who asks, as `ops.api.authentication` handed it over."""
    return cast(Principal, request.auth)


def checked(serializer_class: type[StrictSerializer], request: Request) -> dict[str, Any]:
    """The validated query parameters. A faulty or unknown one raises REST framework's ``ValidationError``."""
    serializer = serializer_class(data=request.query_params.dict())
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)
