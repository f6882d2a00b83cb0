"""Write the documents of a JSON Lines file (``id``, ``text``) into Haystack's pgvector store, embedded.

Runs in an environment of its own (``bench/peer_servers/haystack.txt``), not in the project's.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from haystack import Document
from haystack.document_stores.types import DuplicatePolicy
from haystack.utils import ComponentDevice
from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersDocumentEmbedder
from haystack_integrations.document_stores.pgvector import PgvectorDocumentStore


def main(path: Path) -> None:
    documents = [
        Document(content=row["text"], meta={"source": row["id"]})
        for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())
    ]
    embedder = SentenceTransformersDocumentEmbedder(
        model=os.environ["PEER_MODEL"], device=ComponentDevice.from_str("cpu"), progress_bar=False
    )
    embedder.warm_up()
    store = PgvectorDocumentStore(embedding_dimension=384, language="english", recreate_table=True)
    store.write_documents(embedder.run(documents)["documents"], policy=DuplicatePolicy.OVERWRITE)
    print(store.count_documents())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
