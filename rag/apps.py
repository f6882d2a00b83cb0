from django.apps import AppConfig
from django.conf import settings


class RagConfig(AppConfig):
    name = "rag"
    verbose_name = "Retrieval"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from models_registry.agents import register_readiness
        from models_registry.deployments import register_guard, register_trial
        from models_registry.models import Slot
        from models_registry.past import register_past
        from models_registry.scopes import register_collection_lookup
        from models_registry.seeding import register_seeder
        from models_registry.serving import register_loader
        from models_registry.space_builds import register_space_builder
        from models_registry.tuning import register_evaluator, register_preview
        from ops.api.problems import register_shape
        from ops.contracts.health import register_health_check
        from rag import checks, spaces, supabase_key  # noqa: F401  (checks registers the system checks)
        from rag.ann.past import indexes_at
        from rag.answers.agents import why_not_ready
        from rag.diagnoses import register_diagnoses
        from rag.evaluation.weights import JudgedEvaluator
        from rag.health import check_live_models
        from rag.index_metrics import export_open_runs
        from rag.measures import register_measures
        from rag.milvus import outbox
        from rag.models import Collection
        from rag.openai_api.errors import error_body
        from rag.pipeline import rankers
        from rag.pipeline.retrieval import check_retrieval
        from rag.preview import PipelinePreview
        from rag.reembedding import require_filled
        from rag.seeding import seed_retrieval
        from rag.space_builder import RetrievalSpaces

        register_collection_lookup(lambda slug: Collection.objects.filter(slug=slug).exists())
        register_guard(Slot.EMBEDDER, require_filled)
        register_loader(Slot.LTR, rankers.RankerLoader())
        register_loader(Slot.EMBEDDER, spaces.EmbedderLoader())
        register_trial(Slot.LTR, rankers.try_out)
        register_trial(Slot.EMBEDDER, spaces.try_out)
        register_seeder("rag", seed_retrieval)
        register_past("indexes", indexes_at)
        register_preview(PipelinePreview())
        register_evaluator(JudgedEvaluator())
        register_space_builder(RetrievalSpaces())
        register_shape("/v1/", error_body)
        register_readiness(why_not_ready)
        register_measures()
        register_diagnoses()
        register_health_check("models", check_live_models, critical=True)
        register_health_check("retrieval", check_retrieval, critical=False)
        supabase_key.register()
        export_open_runs()
        if settings.RAG_RETRIEVAL_MODE == outbox.MODE:
            outbox.export_metrics()
