from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig


class SiteConfig(AppConfig):
    name = "zenglow_site"

    def ready(self) -> None:
        from zenglow_site import celery  # noqa: F401  (whatever queues a task here must know our broker)


class SiteAdminConfig(AdminConfig):
    default_site = "zenglow_site.administration.ZenGlowAdminSite"
