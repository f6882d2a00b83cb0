"""The product's addresses, one whose view only returns bytes (what a full cache hit is compared with), and one that
says how many tasks the event loop has.
"""

from __future__ import annotations

import asyncio

from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt

from ops.access import requires
from ops.contracts.principal import Scope

_kept = b""


@csrf_exempt
@requires(POST=Scope.QUERY, PUT=Scope.QUERY)
def same_bytes(request: HttpRequest) -> HttpResponse:
    """PUT keeps the body, POST returns what was kept, as JSON."""
    global _kept
    if request.method == "PUT":
        _kept = request.body
    return HttpResponse(_kept, content_type="application/json")


@requires(GET=Scope.OPS_READ)
async def tasks(request: HttpRequest) -> HttpResponse:
    """How many the server's event loop has."""
    return HttpResponse(str(len(asyncio.all_tasks())), content_type="text/plain")


urlpatterns = [path("bench/same-bytes", same_bytes), path("bench/tasks", tasks), path("", include("zenglow_site.urls"))]
