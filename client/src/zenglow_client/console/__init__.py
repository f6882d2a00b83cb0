"""The ``zenglow`` command."""
