"""How the models of the voice agent are made."""
