#!/usr/bin/env python
"""The one entry point for every command."""

import os
import signal
import sys

# Commands that neither read nor write a store, so that they work before one exists.
STACKLESS_COMMANDS = frozenset(
    {
        "",
        "help",
        "version",
        "--help",
        "--version",
        "-h",
        "collectstatic",
        "config",
        "doctor",  # it looks, and must not mend what it looks at
        "serve",
        "stack",
        "spectacular",
    }
)

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it: 128 + SIGINT."""


def main() -> None:
    """Run a command. A fault of the environment or of the stores is one message and exit code 2, not a traceback."""
    # SIGTERM ends a command as Ctrl-C does: it cleans up after itself.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "zenglow_site.settings")
    try:
        from django.core.management import execute_from_command_line
    except ImportError:
        sys.exit("Django is not installed here. Run `make venv`, then use .venv/bin/python manage.py …")
    from django.db import DatabaseError

    from ops.contracts.env import ConfigurationError
    from zenglow_site.database import explained
    from zenglow_site.embedded.errors import EmbeddedError
    from zenglow_site.embedded.stack import EmbeddedStack
    from zenglow_site.environment import environment, is_embedded

    try:
        command = sys.argv[1] if len(sys.argv) > 1 else ""
        loaded = environment()
        if is_embedded(loaded) and command not in STACKLESS_COMMANDS:
            EmbeddedStack(loaded["ZENGLOW_DATA_DIR"]).ensure()
        execute_from_command_line(sys.argv)
    except (ConfigurationError, EmbeddedError) as error:
        print(error, file=sys.stderr)
        if sys.argv[1:3] == ["config", "check"] and (unusable := getattr(error, "environment", None)) is not None:
            # Settings can't be made of it, so that the command itself never runs.
            from ops.configuration import doubts

            for doubt in doubts(unusable):
                if str(doubt.message) not in str(error):
                    print(f"{doubt.level}: {doubt.message}", file=sys.stderr)
        sys.exit(2)
    except DatabaseError as error:
        if "--traceback" in sys.argv or (fault := explained(error)) is None:
            raise
        print(fault, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
