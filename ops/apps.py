from django.apps import AppConfig
from django.conf import settings


class OpsConfig(AppConfig):
    name = "ops"
    verbose_name = "Operations"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from ops import checks, task_context  # noqa: F401  (registers the system checks, and the ids of tasks)
        from ops.alerting.measures import register_measures
        from ops.contracts.model_calls import register_call_sink
        from ops.contracts.stage import register_sink
        from ops.doctor import register_diagnoses
        from ops.health_checks import register_health_checks
        from ops.instrumentation import tasks  # noqa: F401  (hears Celery's signals)
        from ops.instrumentation.installation import declare_installation_metrics
        from ops.instrumentation.prometheus import observe_model_call, observe_stage
        from ops.instrumentation.shared import start_writing
        from ops.instrumentation.snapshot import SNAPSHOT
        from ops.logs import configure_structlog
        from ops.scrub import scrub_also

        register_measures()
        register_diagnoses()
        configure_structlog()
        scrub_also(settings.OPS_SCRUB_FIELDS)
        declare_installation_metrics()
        start_writing()
        register_sink(SNAPSHOT.add_stage)
        register_sink(observe_stage)
        register_call_sink(observe_model_call)
        register_health_checks()
