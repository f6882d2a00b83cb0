"""Postings: one row a (term, chunk), ranked inside PostgreSQL.

A term belongs to one collection, so the primary key needs no collection. There is no foreign key: rows are written and
removed by the million, always by the service that writes the chunk, which knows the chunk's terms (`Chunk.tokens`).
``INCLUDE`` makes BM25 an index-only scan.
"""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("rag", "0001_initial")]

    operations = [
        migrations.RunSQL(
            sql="""
                CREATE TABLE rag_posting (
                    term_id integer NOT NULL,
                    chunk_id bigint NOT NULL,
                    frequency smallint NOT NULL,
                    chunk_length integer NOT NULL
                );
                CREATE UNIQUE INDEX rag_posting_term_chunk
                    ON rag_posting (term_id, chunk_id) INCLUDE (frequency, chunk_length);
            """,
            reverse_sql="DROP TABLE rag_posting;",
        ),
    ]
