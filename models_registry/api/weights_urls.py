from django.urls import path

from models_registry.api.weights import WeightsHistoryView, WeightsRollbackView, WeightsView

urlpatterns = [
    path("weights", WeightsView.as_view(), name="fusion-weights"),
    path("weights/history", WeightsHistoryView.as_view(), name="fusion-weights-history"),
    path("weights/rollback", WeightsRollbackView.as_view(), name="fusion-weights-rollback"),
]
