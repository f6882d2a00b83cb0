"""What writes an answer: the extractive answerer, Ollama, or any OpenAI-compatible server, behind one protocol."""
