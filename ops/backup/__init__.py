"""Everything an installation holds, in one checksummed file: its database and the files of its storage.

    create(Path("zenglow.backup"), report=print)
    restore(Path("zenglow.backup"), replace=True, report=print)

A backup holds no secret: API keys and query hashes are only recognised where ``ZENGLOW_SECRET_KEY`` is the same.
"""

from ops.backup.archive import BackupError
from ops.backup.service import create, restore

__all__ = ["BackupError", "create", "restore"]
