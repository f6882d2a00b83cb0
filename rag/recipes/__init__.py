"""How the models that ship, or that an installation makes for itself, are made."""
