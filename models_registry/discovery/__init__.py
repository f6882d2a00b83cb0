"""Finding the models that are there: in folders, and on servers that speak Ollama's or OpenAI's protocol.

sources()  →  each looks and says what it found  →  `refresh` adds, marks missing, and never deletes
"""
