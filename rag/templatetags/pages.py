"""What the templates of the pages share."""

from __future__ import annotations

from datetime import datetime, timedelta

from django import template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from ops.contracts.principal import Scope

register = template.Library()


@register.simple_tag
def icon(name: str) -> SafeString:
    """A symbol of ``static/img/icons.svg`` in the colour of its text; decoration only, so it has no name of its own."""
    return format_html(
        '<svg class="icon" aria-hidden="true" focusable="false"><use href="{}#{}"></use></svg>',
        static("img/icons.svg"),
        name,
    )


@register.filter
def ago(moment: datetime) -> str:
    """How long ago that was, in its largest unit: "just now", "5 minutes ago", "2 months ago"."""
    if timezone.now() - moment < timedelta(minutes=1):
        return "just now"
    return f"{timesince(moment, depth=1)} ago"


@register.filter
def signed(value: float) -> str:
    """Three decimals with a sign, as a part of a sum is written: "+0.125", "−0.500"; a true minus, as in print."""
    return f"{value:+.3f}".replace("-", "−")


@register.filter
def signed_percent(share: float) -> str:
    """ "+3.5 %", "−0.2 %"."""
    return f"{share:+.1%}".replace("-", "−").replace("%", " %")


@register.filter
def signed_short(value: float) -> str:
    """Two decimals with a sign, for an axis."""
    return f"{value:+.2f}".replace("-", "−")


@register.filter
def negative(value: float) -> float:
    return -value


@register.simple_tag(takes_context=True)
def may(context: template.Context, scope: str) -> bool:
    """Whether who reads the page has a scope: ``{% may "registry:read" as may_read %}``."""
    principal = getattr(context.get("request"), "principal", None)
    return principal is not None and principal.has_scope(Scope(scope))
