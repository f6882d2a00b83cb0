"""``/v1``: what clients of OpenAI's API ask for, answered from the documents. They change one URL and the key.

`errors` is the shape of refusals there, `models` what can be named as ``model``, `chat` how a conversation becomes a
question and an answer a completion, `embeddings` the live embedder's vectors, `views` the routes.
"""
