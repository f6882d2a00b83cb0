"""Pages of rows, filtered by the query string and by what the caller may see."""

from __future__ import annotations

from typing import Any, TypeVar

from django.db.models import Model, QuerySet
from rest_framework.generics import ListAPIView

from models_registry.api.queries import checked, principal_of
from models_registry.scopes import visible_scopes
from ops.api.fields import StrictSerializer

PAGING = ("limit", "cursor")

Row = TypeVar("Row", bound=Model)


def without_paging(query: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in query.items() if name not in PAGING}


class RowsView(ListAPIView[Row]):
    """``query_serializer_class`` reads the query string; `rows` makes of it what the page is taken from.

    Rows with a ``scope`` are left out where the caller may not see it (``is_scoped``).
    """

    query_serializer_class: type[StrictSerializer]
    is_scoped = False

    def rows(self, query: dict[str, Any]) -> QuerySet[Row]:
        """``query`` without its paging. Most of it filters by columns of the same names."""
        raise NotImplementedError

    def get_queryset(self) -> QuerySet[Row]:
        rows = self.rows(without_paging(checked(self.query_serializer_class, self.request)))
        scopes = visible_scopes(principal_of(self.request)) if self.is_scoped else None
        return rows if scopes is None else rows.filter(scope__in=scopes)
