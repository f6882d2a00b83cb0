"""How the models of the voice agent are made."""

from pathlib import Path

SHIPPED_JUDGE = Path(__file__).parent / "interruptions" / "default.json"
"""The model that `voice.recipes.interruption` made of the labelled set beside it."""
