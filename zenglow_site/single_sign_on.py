"""Single sign-on by OpenID Connect (django-allauth): the provider says who somebody is and which groups they are in.

The groups of the claim become the person's groups at each sign-in, so that access lists follow the provider; whoever is
in ``ZENGLOW_OIDC_ADMIN_GROUP`` administers. Local accounts stay: both begin at the one sign-in page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from allauth.account.adapter import DefaultAccountAdapter
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.models import SocialLogin
from allauth.socialaccount.providers.openid_connect import views
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.models import Group, User
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect
from django.urls import path
from django.views.decorators.cache import never_cache

from ops import audit
from ops.access import Access, requires
from ops.contracts.audit import declare_action
from ops.contracts.principal import SYSTEM
from ops.contracts.problems import TooManyRequests
from ops.limits import buckets
from ops.limits.buckets import Bucket, Limit
from ops.limits.policy import REFUSALS, address_holder
from zenglow_site.accounts import ATTEMPT_WINDOW_S

PROVIDER_ID = "sso"
MOST_ATTEMPTS = 100
"""From one address within `ATTEMPT_WINDOW_S`."""
LONGEST_GROUP = 150
MOST_GROUPS = 200

SIGN_IN = declare_action("user.single_sign_on", "Somebody signed in by single sign-on, with these groups.")


class AccountAdapter(DefaultAccountAdapter):  # type: ignore[misc]  # allauth has no types
    """Nobody makes a local account by themselves: operators do, or the provider's people are let in."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False


class SingleSignOnAdapter(DefaultSocialAccountAdapter):  # type: ignore[misc]  # allauth has no types
    def is_open_for_signup(self, request: HttpRequest, sociallogin: SocialLogin) -> bool:
        return True

    def save_user(self, request: HttpRequest, sociallogin: SocialLogin, form: Any = None) -> User:
        """A new person: their groups are set before anything is shown to them."""
        user: User = super().save_user(request, sociallogin, form)
        follow_claims(user, claims_of(sociallogin))
        return user

    def pre_social_login(self, request: HttpRequest, sociallogin: SocialLogin) -> None:
        """Somebody who was here before: their groups may have changed."""
        if sociallogin.is_existing:
            follow_claims(sociallogin.user, claims_of(sociallogin))

    def on_authentication_error(
        self,
        request: HttpRequest,
        provider: Any,
        error: Any = None,
        exception: Exception | None = None,
        extra_context: Any = None,
    ) -> None:
        from allauth.core.exceptions import ImmediateHttpResponse

        messages.error(request, "Single sign-on did not succeed. Try again, or sign in with a password.")
        raise ImmediateHttpResponse(HttpResponseRedirect("/sign-in/"))


def claims_of(login: SocialLogin) -> Mapping[str, Any]:
    """What the provider says of somebody: user info, completed by the identity token."""
    data: Mapping[str, Any] = login.account.extra_data
    userinfo, id_token = data.get("userinfo"), data.get("id_token")
    if isinstance(userinfo, dict) or isinstance(id_token, dict):
        return {**(id_token or {}), **(userinfo or {})}
    return data


def groups_in(claims: Mapping[str, Any]) -> list[str]:
    """The names of groups in the claim ``ZENGLOW_OIDC_GROUPS_CLAIM``, sorted; what is no name is left out."""
    claimed = claims.get(settings.ZENGLOW_OIDC_GROUPS_CLAIM)
    found = claimed if isinstance(claimed, list) else [claimed]
    names = {name for name in found if isinstance(name, str) and 0 < len(name) <= LONGEST_GROUP and name.isprintable()}
    return sorted(names)[:MOST_GROUPS]


def follow_claims(user: User, claims: Mapping[str, Any]) -> None:
    """Give somebody exactly the groups of the claims, and the admin's rights where one of them has these."""
    names = groups_in(claims)
    user.groups.set([Group.objects.get_or_create(name=name)[0] for name in names])
    administers = settings.ZENGLOW_OIDC_ADMIN_GROUP in names if settings.ZENGLOW_OIDC_ADMIN_GROUP else False
    if settings.ZENGLOW_OIDC_ADMIN_GROUP and user.is_staff != administers:
        user.is_staff = user.is_superuser = administers
        user.save(update_fields=["is_staff", "is_superuser"])
    audit.record(SYSTEM, SIGN_IN, f"user:{user.pk}", {"groups": names, "administers": user.is_staff})


@requires(POST=Access.ANYBODY)
@never_cache
def begin(request: HttpRequest) -> HttpResponse:
    """To the provider. By POST, so that no other page can start it, and not too often, as the provider is asked."""
    limit = Limit("single-sign-on", MOST_ATTEMPTS, MOST_ATTEMPTS / ATTEMPT_WINDOW_S)
    verdict = buckets.take([Bucket(limit, address_holder(str(request.META.get("REMOTE_ADDR") or "")))], 1)
    if not verdict.is_granted:
        REFUSALS.labels("single-sign-on", "http").inc()
        raise TooManyRequests("Too many attempts to sign in.", retry_after_s=verdict.retry_after_s)
    response: HttpResponse = views.login(request, PROVIDER_ID)
    return response


@requires(GET=Access.ANYBODY)
@never_cache
def callback(request: HttpRequest, provider_id: str) -> HttpResponse:
    """Back from the provider."""
    response: HttpResponse = views.callback(request, provider_id)
    return response


@requires(GET=Access.ANYBODY)
def back(request: HttpRequest) -> HttpResponse:
    """Where django-allauth leads in its rarer ends (cancelled, inactive, no account): to the one sign-in page."""
    messages.error(request, "Single sign-on did not succeed. Ask whoever runs this installation.")
    return redirect("sign-in")


urlpatterns = [
    path("sign-in/sso/", begin, name="single-sign-on"),
    path("sign-in/oidc/<str:provider_id>/callback/", callback, name="openid_connect_callback"),
    # Names that django-allauth leads to.
    *(
        path("sign-in/ended/", back, name=name)
        for name in (
            *("account_login", "account_email", "account_inactive"),
            *("socialaccount_login_cancelled", "socialaccount_signup"),
        )
    ),
]
