from django.apps import AppConfig
from django.conf import settings


class RagConfig(AppConfig):
    name = "rag"
    verbose_name = "Retrieval"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from models_registry.deployments import register_guard
        from models_registry.models import Slot
        from models_registry.scopes import register_collection_lookup
        from models_registry.seeding import register_seeder
        from ops.contracts.health import register_health_check
        from rag import checks  # noqa: F401  (registers the system checks)
        from rag.health import check_live_models
        from rag.milvus import outbox
        from rag.models import Collection
        from rag.pipeline.retrieval import check_retrieval
        from rag.reembedding import require_filled
        from rag.seeding import seed_retrieval

        register_collection_lookup(lambda slug: Collection.objects.filter(slug=slug).exists())
        register_guard(Slot.EMBEDDER, require_filled)
        register_seeder("rag", seed_retrieval)
        register_health_check("models", check_live_models, critical=True)
        register_health_check("retrieval", check_retrieval, critical=False)
        if settings.RAG_RETRIEVAL_MODE == outbox.MODE:
            outbox.export_metrics()
