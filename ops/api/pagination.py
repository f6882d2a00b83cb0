"""Lists in pages: opaque cursors that stay right while rows are added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from rest_framework.exceptions import NotFound
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request

from ops.contracts.problems import InvalidRequest


class Pages(CursorPagination):
    """``{"next": address or null, "previous": …, "results": […]}``.

    A subclass names its ``ordering``: one field, unique. A limit outside its bounds is refused, not quietly changed.
    """

    page_size = 50
    max_page_size = 500
    page_size_query_param = "limit"
    page_size_query_description = f"Results of a page, 1 to {max_page_size}."

    def get_page_size(self, request: Request) -> int:
        text = request.query_params.get(self.page_size_query_param)
        if text is None:
            return self.page_size
        # Longer numbers are not turned into integers: that alone can take long.
        limit = int(text) if text.isdecimal() and len(text) <= 6 else 0
        if not 1 <= limit <= self.max_page_size:
            detail = f"Must be a whole number from 1 to {self.max_page_size}."
            raise InvalidRequest(f"limit: {detail}", errors={self.page_size_query_param: detail})
        return limit

    def paginate_queryset(
        self, queryset: QuerySet[Any] | Sequence[Any], request: Request, view: Any = None
    ) -> list[Any] | None:
        try:
            return super().paginate_queryset(queryset, request, view)
        except (NotFound, ValidationError, ValueError) as error:
            # A cursor that was tampered with is no base64, or names a position of another type.
            if self.cursor_query_param not in request.query_params:
                raise
            raise InvalidRequest("The cursor is not one that this server gave out.") from error
