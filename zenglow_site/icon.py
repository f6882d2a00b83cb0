"""``/favicon.ico``: where browsers look for an icon that a page does not name, such as the admin's and plain JSON."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponseRedirect
from django.templatetags.static import static

from ops.access import Access, requires


@requires(GET=Access.ANYBODY)
def favicon(request: HttpRequest) -> HttpResponseRedirect:
    """The mark, wherever this release keeps it."""
    return HttpResponseRedirect(static("img/mark.svg"))
