"""Pages of the voice agent."""
