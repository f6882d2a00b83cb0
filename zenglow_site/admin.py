"""What of allauth belongs into the admin: who signed in by single sign-on, and nothing that is set elsewhere.

The provider is set by the environment (a form for it would show its secret), no token is kept, and nobody confirms an
address here.
"""

from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialApp, SocialToken
from django.contrib import admin

for model in (EmailAddress, SocialApp, SocialToken):
    if admin.site.is_registered(model):
        admin.site.unregister(model)
