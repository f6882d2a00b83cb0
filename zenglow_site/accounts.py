"""Signing in and out and changing the password: Django's own views with our pages, and a brake on guessing."""

from __future__ import annotations

import hashlib
from typing import Any

from django.contrib import messages
from django.contrib.auth import views
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse
from django.urls import path, reverse_lazy
from django_redis.exceptions import ConnectionInterrupted

from ops.access import Access

ATTEMPT_WINDOW_S = 15 * 60
MAX_FAILURES_OF_NAME = 5
"""Failed attempts from one address at one account within the window, before further ones are refused unread."""
MAX_FAILURES_OF_ADDRESS = 100
"""Failed attempts from one address at all accounts together: high, as a proxy may stand for many people."""


class SignInView(views.LoginView):
    """Refuses further attempts for a while after too many failures. Without Redis it lets people try."""

    template_name = "accounts/sign_in.html"
    redirect_authenticated_user = True
    required_scopes = {"GET": Access.ANYBODY, "POST": Access.ANYBODY}

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if _too_many_failures(request):
            form = self.get_form()
            context = self.get_context_data(form=form, wait_minutes=ATTEMPT_WINDOW_S // 60)
            return self.render_to_response(context, status=429, headers={"Retry-After": str(ATTEMPT_WINDOW_S)})
        return super().post(request, *args, **kwargs)

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        _forget_failures(self.request)
        return super().form_valid(form)

    def form_invalid(self, form: AuthenticationForm) -> HttpResponse:
        _count_failure(self.request)
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


def _failure_keys(request: HttpRequest) -> dict[str, int]:
    """The counters that a failed attempt raises, with their limits. Names are hashed: they may hold any character."""
    address = request.META.get("REMOTE_ADDR", "")
    name = request.POST.get("username", "").casefold()
    digest = hashlib.sha256(f"{address}\n{name}".encode()).hexdigest()
    return {f"sign-in:name:{digest}": MAX_FAILURES_OF_NAME, f"sign-in:address:{address}": MAX_FAILURES_OF_ADDRESS}


def _too_many_failures(request: HttpRequest) -> bool:
    limits = _failure_keys(request)
    try:
        counts = cache.get_many(limits)
    except ConnectionInterrupted:
        return False
    return any(count >= limits[key] for key, count in counts.items())


def _count_failure(request: HttpRequest) -> None:
    try:
        for key in _failure_keys(request):
            cache.add(key, 0, ATTEMPT_WINDOW_S)
            cache.incr(key)
    except (ConnectionInterrupted, ValueError):  # ValueError: the window ended between the two calls
        return


def _forget_failures(request: HttpRequest) -> None:
    name_key = next(iter(_failure_keys(request)))
    try:
        cache.delete(name_key)
    except ConnectionInterrupted:
        return


urlpatterns = [
    path("sign-in/", SignInView.as_view(), name="sign-in"),
    path("sign-out/", SignOutView.as_view(), name="sign-out"),
    path("password-change/", PasswordChangeView.as_view(), name="password-change"),
]
