"""Where something is live: everywhere, or in one collection. The registry names a collection by its slug alone."""

from __future__ import annotations

from collections.abc import Callable

from models_registry.models import GLOBAL_SCOPE
from ops.contracts.principal import Principal, Scope
from ops.contracts.problems import Forbidden, NotFound

CollectionLookup = Callable[[str], bool]

_collection_exists: CollectionLookup | None = None


def register_collection_lookup(exists: CollectionLookup) -> None:
    """Say how to find out whether a collection exists. Called by the app that keeps collections."""
    global _collection_exists
    _collection_exists = exists


def readable_scope(collection: str | None, principal: Principal) -> str:
    """The scope of a collection, or the global one for ``None``. Raises `Forbidden`, `NotFound`."""
    if collection is None:
        return GLOBAL_SCOPE
    if not principal.may_touch(collection):
        raise Forbidden(f"'{principal.name}' may not touch the collection '{collection}'.")
    if collection == GLOBAL_SCOPE or (_collection_exists is not None and not _collection_exists(collection)):
        raise NotFound(f"There is no collection '{collection}'.")
    return collection


def visible_scopes(principal: Principal) -> frozenset[str] | None:
    """The scopes whose deployments ``principal`` may see; ``None`` for all of them."""
    return None if principal.collections is None else principal.collections | {GLOBAL_SCOPE}


def require_write(scope: str, principal: Principal) -> None:
    """Raise `Forbidden` unless ``principal`` may change what is live in ``scope``."""
    if not principal.has_scope(Scope.REGISTRY_WRITE):
        raise Forbidden(f"'{principal.name}' lacks the scope {Scope.REGISTRY_WRITE}.")
    if scope == GLOBAL_SCOPE:
        if principal.collections is not None:
            raise Forbidden(f"'{principal.name}' is limited to some collections: name one of them.")
    else:
        readable_scope(scope, principal)
