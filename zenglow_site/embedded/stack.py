"""PostgreSQL and Redis together, on one data folder: what settings, commands and the supervisor use."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from zenglow_site.embedded.installs import ELSEWHERE
from zenglow_site.embedded.postgres import APPLICATION_USER, EmbeddedPostgres
from zenglow_site.embedded.redis import EmbeddedRedis
from zenglow_site.embedded.server import SHORT_BASE, ServerStatus

DATABASE = "zenglow"


class EmbeddedStack:
    """The stores of one data folder, in its `postgres/` and `redis/`.

    Every process may make one; the servers are shared and outlive the processes that started them:

        stack = EmbeddedStack(Path("var"))
        stack.ensure()
        psycopg.connect(stack.postgres.dsn("zenglow"))
    """

    def __init__(self, data_dir: Path, *, elsewhere: Path = ELSEWHERE, short_base: Path = SHORT_BASE) -> None:
        self.data_dir = data_dir
        self.postgres = EmbeddedPostgres(data_dir / "postgres", elsewhere=elsewhere, short_base=short_base)
        self.redis = EmbeddedRedis(data_dir / "redis", elsewhere=elsewhere, short_base=short_base)

    def ensure(self, timeout_s: float = 300.0) -> None:
        """Return once both servers answer and the application's database exists. Raises EmbeddedError.

        Never stops anything: a short-lived command that attaches leaves the servers to the others.
        """
        deadline = time.monotonic() + timeout_s
        # First, because it may be missing, which one would rather hear before the seconds that PostgreSQL takes.
        self.redis.ensure(timeout_s)
        self.postgres.ensure(max(deadline - time.monotonic(), 0.0))
        self.postgres.ensure_database(DATABASE)

    def stop(self, timeout_s: float = 60.0) -> None:
        """End both servers. Raises StopError."""
        try:
            self.postgres.stop(timeout_s)
        finally:
            self.redis.stop(timeout_s)

    def status(self) -> list[ServerStatus]:
        return [self.postgres.status(), self.redis.status()]

    def rotate_logs(self) -> None:
        """Bound the servers' logs; a process that lives for days calls this now and then."""
        self.postgres.rotate_log()
        self.redis.rotate_log()

    def database_parameters(self, database: str = DATABASE) -> dict[str, Any]:
        """Entries of Django's DATABASES. Known before the first start."""
        return {
            "NAME": database,
            "USER": APPLICATION_USER,
            "PASSWORD": "",
            "HOST": str(self.postgres.socket_dir),
            "PORT": str(self.postgres.port),
        }

    def database_url(self, database: str = DATABASE) -> str:
        """The same as a URL, for psycopg and libpq's programs (`psql`, `pg_dump`)."""
        return self.postgres.url(database)

    def redis_url(self, database: int) -> str:
        """`unix://` URL of one of Redis's numbered databases."""
        return self.redis.url(database)

    def celery_redis_url(self, database: int) -> str:
        """The same in the form that Celery reads."""
        return self.redis.celery_url(database)
