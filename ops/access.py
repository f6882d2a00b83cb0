"""Which right a route asks for: declared on its view, checked here for the API and for pages alike.

A view states ``required_scopes``, one requirement for each HTTP method it answers::

    class DocumentsView(APIView):
        required_scopes = {"GET": Scope.QUERY, "POST": Scope.INGEST}

    @requires(GET=Scope.QUERY)
    def search(request): ...

A view that states nothing is refused, so that a new route is closed until somebody decides.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, TypeVar

from ops.contracts.principal import Principal, Scope
from ops.contracts.problems import AuthenticationNeeded, Forbidden, MethodNotAllowed

logger = logging.getLogger(__name__)


class Access(Enum):
    """Requirements that are no scope."""

    ANYBODY = "anybody"
    ANY_PRINCIPAL = "any signed-in user or key"


Requirement = Scope | Access
ViewT = TypeVar("ViewT", bound=Callable[..., Any])


def requires(**requirements: Requirement) -> Callable[[ViewT], ViewT]:
    """Declare the requirements of a view function, by HTTP method."""

    def declare(view: ViewT) -> ViewT:
        view.required_scopes = requirements  # type: ignore[attr-defined]
        return view

    return declare


def view_class(view: object) -> object:
    """The class behind a routed view, or the view function itself."""
    return getattr(view, "cls", None) or getattr(view, "view_class", None) or view


def declared_requirements(view: object) -> Mapping[str, Requirement]:
    """What a routed view, a view instance or a view class declares; empty when it declares nothing.

    A function wrapped around a class-based view (``requires(...)(View.as_view())``) speaks for the class.
    """
    own: Mapping[str, Requirement] | None = getattr(view, "required_scopes", None)
    if own is None:
        own = getattr(view_class(view), "required_scopes", None)
    return own or {}


def is_sign_in(view: object) -> bool:
    """Whether Django's ``login_not_required`` marks a page that declares nothing of its own.

    REST framework marks all of its views so; they don't count, because they are checked by their own permission.
    """
    is_marked = not getattr(view, "login_required", True) and not hasattr(view, "cls")
    return is_marked and not declared_requirements(view)


def requirement_of(view: object, method: str | None) -> Requirement | None:
    """What ``method`` on ``view`` needs; ``None`` when the view does not declare it.

    HEAD needs what GET needs. OPTIONS of a view that declares anything needs any principal, or nobody where every
    method is open.
    """
    declared = declared_requirements(view)
    if method == "HEAD":
        return declared.get("HEAD", declared.get("GET"))
    if method == "OPTIONS" and declared:
        is_open = all(requirement is Access.ANYBODY for requirement in declared.values())
        return declared.get("OPTIONS", Access.ANYBODY if is_open else Access.ANY_PRINCIPAL)
    return declared.get(method or "")


def ensure_allowed(principal: Principal, view: object, method: str | None) -> None:
    """Pass silently, or raise.

    `AuthenticationNeeded`: somebody unknown. `Forbidden`: no right to it, or a view that declares nothing.
    `MethodNotAllowed`: a method that the view does not declare.
    """
    requirement = requirement_of(view, method)
    if requirement is Access.ANYBODY:
        return
    if not principal.scopes:
        raise AuthenticationNeeded("Send an API key as `Authorization: Bearer zg_…`, or sign in.")
    if requirement is None:
        if declared_requirements(view):
            raise MethodNotAllowed(f"This address does not answer {method}.")
        logger.error("%r declares no required_scopes, so it answers nobody", view_class(view))
        raise Forbidden("This address is not open to anybody.")
    if isinstance(requirement, Scope) and not principal.has_scope(requirement):
        raise Forbidden(f"This needs the scope {requirement.value}.", required_scope=requirement.value)
