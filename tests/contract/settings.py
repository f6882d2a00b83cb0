"""For the server that the contract is tried against: it asks for keys."""

from tests.worker_settings import *  # noqa: F403

ENABLE_API_KEYS = True
