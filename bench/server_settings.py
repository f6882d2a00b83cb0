"""The product's settings with one address more: `bench.server_urls`. Only benchmarks start a server with them."""

import os

from zenglow_site.settings import *  # noqa: F403
from zenglow_site.settings import CACHES, CHANNEL_LAYERS

ROOT_URLCONF = "bench.server_urls"

if os.environ.get("BENCH_REDIS_AWAY"):
    CACHES["default"]["LOCATION"] = "redis://127.0.0.1:1/0"
    CHANNEL_LAYERS["default"]["CONFIG"]["hosts"] = ["redis://127.0.0.1:1/2"]
