-- The function that RAG_RETRIEVAL_MODE=supabase_rpc calls. Apply it to the database that DATABASE_URL names, after
-- ZenGlow's own migrations; it may be applied again at any time:
--
--     psql "$DATABASE_URL" --single-transaction --file rag/sql/match_documents.sql
--
-- or copy it to a project's supabase/migrations/ under a name such as 20260101000000_match_documents.sql.

DROP FUNCTION IF EXISTS match_documents(vector, integer, jsonb, bigint, bigint, text[]);

CREATE FUNCTION match_documents(
    query_embedding vector,
    match_count integer,
    filter jsonb,           -- {metadata key: value, or [alternatives]}; a stored list matches when it holds the value
    collection bigint,
    space bigint,
    reader_groups text[]    -- the reader's groups; NULL for one who reads everything
) RETURNS TABLE (id bigint, similarity double precision)
LANGUAGE plpgsql STABLE SECURITY INVOKER
AS $$
#variable_conflict use_column
BEGIN
    IF match_documents.reader_groups IS NULL AND match_documents.filter = '{}' THEN
        RETURN QUERY
        SELECT v.chunk_id, 1 - (v.embedding <=> match_documents.query_embedding)
        FROM doc_embeddings v
        WHERE v.collection_id = match_documents.collection AND v.space_id = match_documents.space
        ORDER BY v.embedding <=> match_documents.query_embedding, v.chunk_id
        LIMIT match_documents.match_count;
        RETURN;
    END IF;
    -- Who may read and what was asked for apply before the list is cut.
    RETURN QUERY
    WITH wanted (key, alternatives) AS (
        SELECT entry.key,
               CASE jsonb_typeof(entry.value) WHEN 'array' THEN entry.value ELSE jsonb_build_array(entry.value) END
        FROM jsonb_each(match_documents.filter) AS entry
    ), eligible (chunk_id) AS MATERIALIZED (
        SELECT chunk.id
        FROM rag_document d
        JOIN rag_collection c ON c.id = d.collection_id
        JOIN rag_chunk chunk ON chunk.document_id = d.id
        WHERE d.collection_id = match_documents.collection
          AND (
              match_documents.reader_groups IS NULL
              OR d.access_groups && match_documents.reader_groups::varchar[]
              OR (d.access_groups = '{}' AND (
                  c.default_access_groups = '{}'
                  OR c.default_access_groups && match_documents.reader_groups::varchar[]
              ))
          )
          AND NOT EXISTS (
              SELECT 1 FROM wanted
              WHERE NOT EXISTS (
                  SELECT 1 FROM jsonb_array_elements(wanted.alternatives) AS alternative (value)
                  WHERE d.metadata @> jsonb_build_object(wanted.key, alternative.value)
                     OR d.metadata @> jsonb_build_object(wanted.key, jsonb_build_array(alternative.value))
              )
          )
    )
    SELECT v.chunk_id, 1 - (v.embedding <=> match_documents.query_embedding)
    FROM eligible JOIN doc_embeddings v USING (chunk_id)
    WHERE v.space_id = match_documents.space
    ORDER BY v.embedding <=> match_documents.query_embedding, v.chunk_id
    LIMIT match_documents.match_count;
END
$$;

COMMENT ON FUNCTION match_documents IS
    'ZenGlow: the chunks nearest to a query embedding. It trusts the groups it is told, so only the server may call it.';

-- Whoever may call it chooses the groups, and PostgREST offers every table and function of the schema: nobody but the
-- service role, whose key only the server has, may use ours.
REVOKE ALL ON FUNCTION match_documents FROM PUBLIC;

DO $$
DECLARE
    untrusted name;
    ours regclass;
BEGIN
    IF EXISTS (SELECT 1 FROM pg_roles WHERE rolname = 'service_role') THEN
        GRANT EXECUTE ON FUNCTION match_documents TO service_role;
        GRANT SELECT ON doc_embeddings, rag_chunk, rag_collection, rag_document TO service_role;
    END IF;
    FOR untrusted IN SELECT rolname FROM pg_roles WHERE rolname IN ('anon', 'authenticated') LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION match_documents FROM %I', untrusted);
        FOR ours IN
            SELECT oid::regclass FROM pg_class
            WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'rag_chunk'::regclass)
              AND relkind IN ('r', 'p', 'v', 'm')
              AND (relname ~ '^(rag|ops|models_registry|auth|django)_' OR relname ~ '^(doc_embeddings$|query_performance)')
        LOOP
            EXECUTE format('REVOKE ALL ON %s FROM %I', ours, untrusted);
        END LOOP;
    END LOOP;
END
$$;

NOTIFY pgrst, 'reload schema';
