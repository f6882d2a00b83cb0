from django.apps import AppConfig
from django.contrib import admin


class SiteConfig(AppConfig):
    name = "zenglow_site"

    def ready(self) -> None:
        from zenglow_site import celery  # noqa: F401  (whatever queues a task here must know our broker)

        admin.site.site_header = "ZenGlow administration"
        admin.site.site_title = "ZenGlow"
        admin.site.index_title = "Weights, models, documents, operations"
