"""``manage.py first_admin``: the first account of a new installation."""

from __future__ import annotations

import secrets
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand
from django.db import transaction

NAME = "admin"
PASSWORD_BYTES = 12


class Command(BaseCommand):
    help = "Make an administrator with a random password, shown once, unless there is an administrator already."

    def handle(self, **options: Any) -> None:
        with transaction.atomic():
            if User.objects.filter(is_superuser=True).exists():
                return
            password = secrets.token_urlsafe(PASSWORD_BYTES)
            User.objects.create_superuser(NAME, password=password)
        self.stdout.write(
            f"\n  Administrator: {NAME}\n  Password:      {password}\n"
            "  It is shown this once. `manage.py changepassword admin` sets another.\n"
        )
