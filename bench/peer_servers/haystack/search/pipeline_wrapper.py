"""Haystack's hybrid search over its pgvector store, as Hayhooks serves it: ``POST /search/run``.

Runs in an environment of its own (``bench/peer_servers/haystack.txt``), not in the project's.
"""

from __future__ import annotations

import os

from hayhooks import BasePipelineWrapper
from haystack import Pipeline
from haystack.components.joiners import DocumentJoiner
from haystack.utils import ComponentDevice
from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersTextEmbedder
from haystack_integrations.components.retrievers.pgvector import PgvectorEmbeddingRetriever, PgvectorKeywordRetriever
from haystack_integrations.document_stores.pgvector import PgvectorDocumentStore

DEPTH = 100
"""Candidates of each retriever, as many as ZenGlow takes."""


class PipelineWrapper(BasePipelineWrapper):
    def setup(self) -> None:
        """Both retrievers, joined by reciprocal-rank fusion."""
        store = PgvectorDocumentStore(embedding_dimension=384, language="english")
        pipeline = Pipeline()
        pipeline.add_component(
            "embedder",
            SentenceTransformersTextEmbedder(
                model=os.environ["PEER_MODEL"], device=ComponentDevice.from_str("cpu"), progress_bar=False
            ),
        )
        pipeline.add_component("dense", PgvectorEmbeddingRetriever(document_store=store, top_k=DEPTH))
        pipeline.add_component("keyword", PgvectorKeywordRetriever(document_store=store, top_k=DEPTH))
        pipeline.add_component("joiner", DocumentJoiner(join_mode="reciprocal_rank_fusion"))
        pipeline.connect("embedder.embedding", "dense.query_embedding")
        pipeline.connect("dense", "joiner")
        pipeline.connect("keyword", "joiner")
        pipeline.warm_up()
        self.pipeline = pipeline

    def run_api(self, query: str, top_k: int = 10) -> list[dict[str, object]]:
        """The ``top_k`` best documents, with the ids that they were given and their texts."""
        found = self.pipeline.run(
            {"embedder": {"text": query}, "keyword": {"query": query}, "joiner": {"top_k": top_k}}
        )
        return [
            {"id": document.meta["source"], "text": document.content, "score": document.score}
            for document in found["joiner"]["documents"]
        ]
