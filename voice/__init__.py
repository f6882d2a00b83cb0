"""The voice agent: microphone → VAD → speech to text → turn manager → answer → text to speech → speaker."""
