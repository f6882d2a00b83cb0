from django.urls import path

from models_registry.api.agents import AgentsView, AgentView
from models_registry.api.archives import ExportView, ImportView
from models_registry.api.registry import (
    DeploymentsView,
    ModelsView,
    ModelView,
    PastView,
    PromotionView,
    RefreshView,
    SlotRollbackView,
)
from models_registry.api.rollouts import (
    RolloutAbortView,
    RolloutPauseView,
    RolloutPromoteView,
    RolloutResumeView,
    RolloutStepView,
    RolloutsView,
    RolloutView,
)
from models_registry.api.space_builds import (
    SpaceBuildCancelView,
    SpaceBuildCheckView,
    SpaceBuildDropView,
    SpaceBuildRollbackView,
    SpaceBuildsView,
    SpaceBuildSwitchView,
    SpaceBuildView,
)

urlpatterns = [
    path("agents", AgentsView.as_view(), name="registry-agents"),
    path("agents/<slug:slug>", AgentView.as_view(), name="registry-agent"),
    path("models", ModelsView.as_view(), name="registry-models"),
    # A model may be named after its origin, such as BAAI/bge-small-en-v1.5.
    path("models/<path:name>", ModelView.as_view(), name="registry-model"),
    path("exports/<path:label>", ExportView.as_view(), name="registry-export"),
    path("imports", ImportView.as_view(), name="registry-import"),
    path("refresh", RefreshView.as_view(), name="registry-refresh"),
    path("promotions", PromotionView.as_view(), name="registry-promotions"),
    path("rollbacks", SlotRollbackView.as_view(), name="registry-rollbacks"),
    path("past", PastView.as_view(), name="registry-past"),
    path("deployments", DeploymentsView.as_view(), name="registry-deployments"),
    path("rollouts", RolloutsView.as_view(), name="registry-rollouts"),
    path("rollouts/<int:number>", RolloutView.as_view(), name="registry-rollout"),
    path("rollouts/<int:number>/step", RolloutStepView.as_view(), name="registry-rollout-step"),
    path("rollouts/<int:number>/pause", RolloutPauseView.as_view(), name="registry-rollout-pause"),
    path("rollouts/<int:number>/resume", RolloutResumeView.as_view(), name="registry-rollout-resume"),
    path("rollouts/<int:number>/promote", RolloutPromoteView.as_view(), name="registry-rollout-promote"),
    path("rollouts/<int:number>/abort", RolloutAbortView.as_view(), name="registry-rollout-abort"),
    path("space-builds", SpaceBuildsView.as_view(), name="registry-space-builds"),
    path("space-builds/<int:number>", SpaceBuildView.as_view(), name="registry-space-build"),
    path("space-builds/<int:number>/check", SpaceBuildCheckView.as_view(), name="registry-space-build-check"),
    path("space-builds/<int:number>/switch", SpaceBuildSwitchView.as_view(), name="registry-space-build-switch"),
    path("space-builds/<int:number>/rollback", SpaceBuildRollbackView.as_view(), name="registry-space-build-rollback"),
    path("space-builds/<int:number>/cancel", SpaceBuildCancelView.as_view(), name="registry-space-build-cancel"),
    path("space-builds/<int:number>/drop", SpaceBuildDropView.as_view(), name="registry-space-build-drop"),
]
