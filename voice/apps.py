from django.apps import AppConfig


class VoiceConfig(AppConfig):
    name = "voice"
    verbose_name = "Voice"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from models_registry.models import Slot
        from models_registry.seeding import register_seeder
        from models_registry.serving import register_loader
        from voice.installed import DetectorLoader, EngineLoader, JudgeLoader
        from voice.seeding import seed_voice

        register_seeder("voice", seed_voice)
        register_loader(Slot.STT, EngineLoader())
        register_loader(Slot.TTS, EngineLoader())
        register_loader(Slot.VAD, DetectorLoader())
        register_loader(Slot.INTERRUPTION, JudgeLoader())
