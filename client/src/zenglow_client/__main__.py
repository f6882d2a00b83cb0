"""``python -m zenglow_client``: the console command."""

from zenglow_client.console.main import run

run()
