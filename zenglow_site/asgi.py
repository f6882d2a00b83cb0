"""The ASGI application that Daphne serves: HTTP by Django, websockets by Channels."""

import gc
import os
import threading

from channels.routing import ProtocolTypeRouter
from django.conf import settings

from ops import tracing
from zenglow_site import handover
from zenglow_site.database import BoundedConnection
from zenglow_site.handler import asgi_application
from zenglow_site.request_body import bound_request_bodies

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "zenglow_site.settings")

http_application = asgi_application()
tracing.start(settings.ENVIRONMENT, "web")

from models_registry import processes, serving  # noqa: E402  (the apps are loaded now)
from models_registry.live import view  # noqa: E402
from ops.api.views import health_monitor  # noqa: E402
from rag import supabase_key  # noqa: E402
from rag.pipeline.resident import resident  # noqa: E402
from zenglow_site.routing import websocket_application  # noqa: E402

application = tracing.traced_asgi(ProtocolTypeRouter({"http": http_application, "websocket": websocket_application()}))

bound_request_bodies()
handover.join_in()
BoundedConnection.answer_timeout_s = settings.ENVIRONMENT["DATABASE_ANSWER_TIMEOUT_S"]
view.follow()
supabase_key.start()
resident.start()
processes.announce("web")


GARBAGE_AFTER = 10_000
"""Objects that are made before Python looks for cycles among them; a request makes some hundreds that stay no longer
than it does. Python's own 700 had it look more than once in three requests."""


def _warm_up() -> None:
    """Load what is live, so that the first query need not wait; then readiness says how it went."""
    serving.warm_up()
    health_monitor().readiness()
    spare_what_stays()


def spare_what_stays() -> None:
    """Have Python look for garbage among what requests make, and not among the 200,000 objects that stay.

    It looked at all of them every few hundred requests, and all requests waited for a fifth of a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER)


threading.Thread(target=_warm_up, name="warm-up", daemon=True).start()
