"""The pages of voice, relative to the site's root."""

from django.urls import path

from voice.pages import page

urlpatterns = [path("voice/", page.voice_page, name="voice")]
