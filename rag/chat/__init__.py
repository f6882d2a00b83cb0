"""Conversations with agents: kept, shared, judged, and led over a websocket."""
