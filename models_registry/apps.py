from django.apps import AppConfig


class ModelsRegistryConfig(AppConfig):
    name = "models_registry"
    verbose_name = "Model registry"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from models_registry import checks, processes  # noqa: F401  (registers the system checks)
        from models_registry.agents import seed_agents
        from models_registry.deployments import register_stable_hook
        from models_registry.diagnoses import register_diagnoses
        from models_registry.inventory import inventory
        from models_registry.rollouts import end_after_change
        from models_registry.seeding import register_seeder
        from models_registry.space_builds import note_change
        from models_registry.statistics import observe_model_call
        from ops.contracts.health import register_sign_of_life
        from ops.contracts.inventory import register_model_inventory
        from ops.contracts.model_calls import register_call_sink

        register_seeder("agents", seed_agents)
        register_model_inventory(inventory)
        register_call_sink(observe_model_call)
        register_sign_of_life(processes.workers)
        register_stable_hook(end_after_change)
        register_stable_hook(note_change)
        register_diagnoses()
