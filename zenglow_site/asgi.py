"""The ASGI application that Daphne serves."""

import os
import threading

from django.conf import settings

from zenglow_site.database import BoundedConnection
from zenglow_site.handler import asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "zenglow_site.settings")

application = asgi_application()

from models_registry.live import view  # noqa: E402  (the apps are loaded now)
from ops.api.views import health_monitor  # noqa: E402

BoundedConnection.answer_timeout_s = settings.ENVIRONMENT["DATABASE_ANSWER_TIMEOUT_S"]
view.follow()
# Asking whether the models work loads them, so that the first query need not.
threading.Thread(target=health_monitor().readiness, name="warm-up", daemon=True).start()
