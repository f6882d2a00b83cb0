from django.apps import AppConfig


class VoiceConfig(AppConfig):
    name = "voice"
    verbose_name = "Voice"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from models_registry.deployments import register_trial
        from models_registry.models import Slot
        from models_registry.seeding import register_seeder
        from models_registry.serving import register_loader
        from rag.ingest.runs import register_finish_hook
        from voice.installed import ON_DEMAND, DetectorLoader, EngineLoader, JudgeLoader, try_out
        from voice.seeding import seed_voice
        from voice.vocabulary.service import follow

        register_seeder("voice", seed_voice)
        for slot, packaged in ON_DEMAND.items():
            register_loader(slot, EngineLoader(), on_demand=packaged)
            register_trial(slot, try_out)
        register_loader(Slot.VAD, DetectorLoader())
        register_loader(Slot.INTERRUPTION, JudgeLoader())
        register_finish_hook(follow)
