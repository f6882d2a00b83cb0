"""``manage.py apikey create|list|rotate|revoke``."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from ops import keys
from ops.contracts.principal import SYSTEM, Scope
from ops.contracts.problems import Problem


class Command(BaseCommand):
    help = "Make, list, rotate or revoke API keys."

    def add_arguments(self, parser: CommandParser) -> None:
        actions = parser.add_subparsers(dest="action", required=True, metavar="create|list|rotate|revoke")
        create = actions.add_parser("create", help="Make a key. It is shown once.")
        create.add_argument("name", help="What the key is for.")
        create.add_argument(
            "--scope",
            action="append",
            required=True,
            metavar="SCOPE",
            help=f"A right of the key; may be repeated. One of {', '.join(Scope)}.",
        )
        create.add_argument("--group", action="append", default=[], help="A group whose documents it sees; repeatable")
        create.add_argument("--collection", action="append", help="A collection it may touch; repeatable. Default: all")
        create.add_argument("--expires-in-days", type=int, help="Days until it ends. Default: never.")
        create.add_argument("--quiet", action="store_true", help="Print the key alone, for scripts.")
        show = actions.add_parser("list", help="List the keys, without their secrets.")
        show.add_argument("--json", action="store_true", help="As JSON.")
        rotate = actions.add_parser("rotate", help="Make a key in place of another, which ends a while later.")
        rotate.add_argument("prefix", help="The old key's part between the two underscores.")
        rotate.add_argument(
            "--overlap-hours",
            type=float,
            default=keys.ROTATION_OVERLAP / timedelta(hours=1),
            help="Hours for which the old key still works. Default: %(default)g.",
        )
        rotate.add_argument("--quiet", action="store_true", help="Print the key alone, for scripts.")
        revoke = actions.add_parser("revoke", help="End a key, for good.")
        revoke.add_argument("prefix", help="The part between the two underscores.")

    def handle(self, *args: Any, action: str, **options: Any) -> None:
        try:
            getattr(self, f"_{action}")(**options)
        except Problem as problem:
            raise CommandError(problem.detail, returncode=2) from None

    def _create(self, **options: Any) -> None:
        days = options["expires_in_days"]
        if days is not None and not 1 <= days <= 36_500:
            raise CommandError("--expires-in-days must be from 1 to 36500.", returncode=2)
        made = keys.create_key(
            options["name"],
            options["scope"],
            actor=SYSTEM,
            groups=options["group"],
            collections=options["collection"],
            expires_at=None if days is None else timezone.now() + timedelta(days=days),
        )
        self.stdout.write(made.text)
        if not options["quiet"]:
            self.stderr.write("This is the only time the key is shown.")

    def _list(self, **options: Any) -> None:
        rows: list[dict[str, Any]] = [
            {
                "prefix": record.prefix,
                "name": record.name,
                "scopes": record.scopes,
                "groups": record.groups,
                "collections": record.collections,
                "state": keys.state_of(record),
                "created_at": record.created_at.isoformat(timespec="seconds"),
                "expires_at": record.expires_at and record.expires_at.isoformat(timespec="seconds"),
                "last_used_at": record.last_used_at and record.last_used_at.isoformat(timespec="seconds"),
            }
            for record in keys.list_keys()
        ]
        if options["json"]:
            self.stdout.write(json.dumps(rows, indent=2))
            return
        if not rows:
            self.stdout.write("There are no keys.")
        for row in rows:
            used = f"last used {row['last_used_at']}" if row["last_used_at"] else "never used"
            ends = f", ends {row['expires_at']}" if row["expires_at"] and row["state"] == "active" else ""
            self.stdout.write(
                f"{row['prefix']}  {row['state']:<8} {','.join(row['scopes'])}  {row['name']}  ({used}{ends})"
            )

    def _rotate(self, **options: Any) -> None:
        hours = options["overlap_hours"]
        if not 0 <= hours <= keys.LONGEST_ROTATION_OVERLAP / timedelta(hours=1):  # of what is no number neither
            raise CommandError(
                f"--overlap-hours must be from 0 to {24 * keys.LONGEST_ROTATION_OVERLAP.days}.", returncode=2
            )
        made = keys.rotate_key(options["prefix"], actor=SYSTEM, overlap=timedelta(hours=hours))
        self.stdout.write(made.text)
        if not options["quiet"]:
            self.stderr.write(
                f"This is the only time the key is shown. The old one, {options['prefix']}, ends in {hours:g} hours."
            )

    def _revoke(self, **options: Any) -> None:
        record = keys.revoke_key(options["prefix"], actor=SYSTEM)
        self.stdout.write(f"Revoked {record}.")
