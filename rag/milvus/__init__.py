"""A copy of chunks in Milvus, for ``RAG_RETRIEVAL_MODE=milvus``. PostgreSQL is the source of truth.

`outbox` notes in a document's own transaction that its copy is behind, `feed` brings the copy up to date, `store`
speaks to Milvus, `labels` says there who may read what and what metadata holds.
"""
