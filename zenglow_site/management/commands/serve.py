"""``manage.py serve``: bring up the whole stack in the foreground. This is what `make run` calls."""

from __future__ import annotations

import logging.config
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from ops.logs import logging_configuration
from zenglow_site.embedded.errors import EmbeddedError
from zenglow_site.embedded.stack import EmbeddedStack
from zenglow_site.environment import environment
from zenglow_site.supervisor import Supervisor, SupervisorError


class Command(BaseCommand):
    help = "Start the stores, the web server and the worker, and keep them up until Ctrl-C."
    requires_system_checks = []

    def handle(self, **options: Any) -> None:
        data_dir = settings.ZENGLOW_DATA_DIR
        log_file = environment()["OPS_LOG_FILE"] or data_dir / "log" / "serve.log"
        log_file.parent.mkdir(parents=True, exist_ok=True)
        logging.config.dictConfig(logging_configuration(settings.OPS_LOG_FORMAT, settings.OPS_LOG_LEVEL, log_file))
        for message in environment().deprecations:
            self._say(message)
        supervisor = Supervisor(
            data_dir=data_dir,
            host=settings.ZENGLOW_HOST,
            port=settings.ZENGLOW_PORT,
            web_processes=environment()["ZENGLOW_WEB_PROCESSES"],
            worker_processes=environment()["ZENGLOW_WORKER_PROCESSES"],
            keys_enabled=settings.ENABLE_API_KEYS,
            stack=EmbeddedStack(data_dir) if settings.ZENGLOW_EMBEDDED else None,
            has_tls=environment()["ZENGLOW_TLS_CERTIFICATE"] is not None,
            command_log=log_file,
            say=self._say,
        )
        try:
            supervisor.run()
        except (SupervisorError, EmbeddedError) as error:
            raise CommandError(str(error), returncode=2) from error

    def _say(self, text: str) -> None:
        self.stdout.write(text)
        self.stdout.flush()
