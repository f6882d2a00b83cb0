"""REST framework's permission: each view declares the scope that each of its methods needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from ops.access import ensure_allowed
from ops.requests import ApiRequest

if TYPE_CHECKING:  # REST framework imports this module while it defines APIView
    from rest_framework.views import APIView


class HasDeclaredScope(BasePermission):
    """Checks ``required_scopes`` of the view (see `ops.access`). A view without it answers nobody."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        ensure_allowed(cast(ApiRequest, request).principal, view, request.method)
        return True
