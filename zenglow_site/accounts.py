"""Signing in and out and changing the password: Django's own views with our pages, and a brake on guessing."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import views
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import path, reverse_lazy
from django.utils.crypto import salted_hmac

from ops.access import Access
from ops.headers import content_security_policy
from ops.limits import buckets
from ops.limits.buckets import Bucket, Limit
from ops.limits.policy import REFUSALS, address_holder

ATTEMPT_WINDOW_S = 15 * 60
"""Time in which attempts are regained in full."""
MAX_FAILURES_OF_NAME = 5
"""Failed attempts from one address at one account, before further ones are refused unread."""
MAX_FAILURES_OF_ACCOUNT = 25
"""Failed attempts at one account from anywhere: 100 an hour, the most that OWASP ASVS 2.2.1 allows."""
MAX_FAILURES_OF_ADDRESS = 100
"""Failed attempts from one address at all accounts together: high, as a proxy may stand for many people."""


class SignInView(views.LoginView):
    """Refuses further attempts for a while after too many failures: here and, as there is one sign-in, in the admin.

    An attempt is paid for before it is read, so that many at once get no more, and given back when it succeeds.
    """

    template_name = "accounts/sign_in.html"
    redirect_authenticated_user = True
    required_scopes = {"GET": Access.ANYBODY, "POST": Access.ANYBODY}

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return super().get_context_data(**kwargs) | {"single_sign_on": settings.SINGLE_SIGN_ON}

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = super().dispatch(request, *args, **kwargs)
        if settings.SINGLE_SIGN_ON:
            # Browsers hold a form's redirects to the policy, and ours leads to the provider.
            own = "form-action 'self'"
            policy = content_security_policy().replace(own, f"{own} {origin_of(settings.SINGLE_SIGN_ON_ISSUER)}")
            response.headers["Content-Security-Policy"] = policy
        return response

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        verdict = buckets.take(_buckets(request), 1)
        if not verdict.is_granted:
            REFUSALS.labels("sign-in", "http").inc()
            wait_s = verdict.retry_after_s
            context = self.get_context_data(form=self.get_form(), wait_minutes=math.ceil(wait_s / 60))
            return self.render_to_response(context, status=429, headers={"Retry-After": str(wait_s)})
        return super().post(request, *args, **kwargs)

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        of_name, *others = _buckets(self.request)
        buckets.refill([of_name])
        buckets.give_back(others)
        return super().form_valid(form)

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        return self.render_to_response(self.get_context_data(form=form), status=401)


class SignOutView(views.LogoutView):
    required_scopes = {"POST": Access.ANYBODY}


class PasswordChangeView(views.PasswordChangeView):
    template_name = "accounts/password_change.html"
    success_url = reverse_lazy("search")
    required_scopes = {"GET": Access.ANY_PRINCIPAL, "POST": Access.ANY_PRINCIPAL}

    def form_valid(self, form: PasswordChangeForm) -> HttpResponse:
        response = super().form_valid(form)
        messages.success(self.request, "Your password was changed. Other devices have been signed out.")
        return response


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def _buckets(request: HttpRequest) -> list[Bucket]:
    """What an attempt draws on. Names are hashed: they may hold any character, and a password typed into them."""
    address = address_holder(str(request.META.get("REMOTE_ADDR") or ""))
    name = request.POST.get("username", "").casefold()
    of_name, of_account = (salted_hmac("sign-in", text).hexdigest() for text in (f"{address}\n{name}", name))
    return [
        Bucket(_limit("sign-in-name", MAX_FAILURES_OF_NAME), of_name),
        Bucket(_limit("sign-in-account", MAX_FAILURES_OF_ACCOUNT), of_account),
        Bucket(_limit("sign-in-address", MAX_FAILURES_OF_ADDRESS), address),
    ]


def _limit(name: str, most: int) -> Limit:
    return Limit(name, most, most / ATTEMPT_WINDOW_S)


urlpatterns = [
    path("sign-in/", SignInView.as_view(), name="sign-in"),
    path("sign-out/", SignOutView.as_view(), name="sign-out"),
    path("password-change/", PasswordChangeView.as_view(), name="password-change"),
]
