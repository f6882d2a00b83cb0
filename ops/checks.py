"""System checks of operations.

ops.E001  a route declares no scope
ops.W001  requests are answered without keys while the server can be reached from elsewhere
ops.W002  the log is written for people while the stage is one that machines read
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Tags, register

from ops.access import is_sign_in
from ops.routes import Route, routes

CHECKS_ITSELF = frozenset({"admin"})
"""Namespaces whose views check their visitors on their own."""


@register(Tags.security, deploy=True)
def check_every_route_declares_its_scope(app_configs: object, **options: Any) -> list[CheckMessage]:
    return [
        checks.Error(
            f"/{route.pattern} declares no scope, so that it answers nobody.",
            hint="Give the view required_scopes (see ops.access).",
            obj=route.view,
            id="ops.E001",
        )
        for route in routes()
        if is_undeclared(route)
    ]


@register(Tags.security, deploy=True)
def check_anonymous_access(app_configs: object, **options: Any) -> list[CheckMessage]:
    if not settings.ALLOW_ANONYMOUS:
        return []
    return [
        checks.Warning(
            "ZENGLOW_ALLOW_ANONYMOUS lets everybody in who reaches the server.",
            hint="Make keys with manage.py apikey create, and take the variable away.",
            id="ops.W001",
        )
    ]


@register(deploy=True)
def check_log_format(app_configs: object, **options: Any) -> list[CheckMessage]:
    loaded = settings.ENVIRONMENT
    if loaded.stage == "local" or loaded["OPS_LOG_FORMAT"] != "console":
        return []
    return [
        checks.Warning(
            f"The log of the stage {loaded.stage} is written for people, not for a log collector.",
            hint="Set OPS_LOG_FORMAT=json.",
            id="ops.W002",
        )
    ]


def is_undeclared(route: Route) -> bool:
    """Whether a route neither declares who may use it nor checks that by itself."""
    return not (route.requirements or route.app_name in CHECKS_ITSELF or is_sign_in(route.view))
