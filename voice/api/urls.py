"""The routes of the voice agent, relative to ``leonardo/``."""

from django.urls import path

from voice.api import views

urlpatterns = [
    path("speak", views.SpeakView.as_view(), name="leonardo-speak"),
    path("listen", views.ListenView.as_view(), name="leonardo-listen"),
    path("think", views.ThinkView.as_view(), name="leonardo-think"),
    path("analyze", views.AnalyzeView.as_view(), name="leonardo-analyze"),
    path("status", views.StatusView.as_view(), name="leonardo-status"),
]
