"""For the servers that are asked by many at once: a key may ask 100 times, and regains nothing meanwhile."""

from tests.worker_settings import *  # noqa: F403

ENABLE_API_KEYS = True
RATE_LIMITS = True
OPS_RATE_LIMIT_KEY_BURST = 100
OPS_RATE_LIMIT_KEY_PER_S = 1e-6
OPS_RATE_LIMIT_IP_BURST = 100_000
