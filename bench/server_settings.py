"""The product's settings with one address more: `bench.server_urls`. Only benchmarks start a server with them."""

from zenglow_site.settings import *  # noqa: F403

ROOT_URLCONF = "bench.server_urls"
