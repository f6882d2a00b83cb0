"""The performance store's own roll-up: histograms by minute, hour and day, kept up to date by a periodic task.

A view joins what is rolled up, which lies before the watermark, with what is counted as it is asked for. Rows that
arrive later than their minute was rolled up are noted by a trigger and make that minute count again.
"""

from importlib import import_module

from django.db import migrations

TABLES = """
-- ``counts`` leaves out the empty buckets at both ends of the histogram; ``lowest`` is the bucket of its first element.
CREATE TABLE query_performance_rollup (
    granularity text        NOT NULL CHECK (granularity IN ('1m', '1h', '1d')),
    bucket      timestamptz NOT NULL,
    variant     text        NOT NULL,
    stage       text        NOT NULL,
    errors      bigint      NOT NULL,
    lowest      integer     NOT NULL,
    counts      bigint[]    NOT NULL,
    PRIMARY KEY (granularity, bucket, variant, stage)
);

-- Rows before the watermark are rolled up. Rows that arrive from before the horizon are noted as late.
CREATE TABLE query_performance_rolled (
    only_row  boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    watermark timestamptz NOT NULL DEFAULT '-infinity',
    horizon   timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO query_performance_rolled DEFAULT VALUES;

CREATE TABLE query_performance_late (minute timestamptz PRIMARY KEY);
"""

# Adding two histograms up in a loop takes half as long as by unnesting them.
PLUS = """
CREATE OR REPLACE FUNCTION latency_histogram_plus(histogram bigint[], other bigint[]) RETURNS bigint[]
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    FOR bucket IN 1..150 LOOP
        IF other[bucket] > 0 THEN
            histogram[bucket] := histogram[bucket] + other[bucket];
        END IF;
    END LOOP;
    RETURN histogram;
END $$
"""

FORMER_PLUS = """
CREATE OR REPLACE FUNCTION latency_histogram_plus(histogram bigint[], other bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT array_agg(coalesce(mine, 0) + coalesce(theirs, 0) ORDER BY bucket)
    FROM unnest(histogram, other) WITH ORDINALITY AS pair(mine, theirs, bucket)
$$
"""

DROP_TABLES = """
DROP TABLE query_performance_late;
DROP TABLE query_performance_rolled;
DROP TABLE query_performance_rollup;
"""

FUNCTIONS = """
-- A histogram with all of its 150 buckets.
CREATE FUNCTION latency_histogram_dense(lowest integer, counts bigint[]) RETURNS bigint[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT array_fill(0::bigint, ARRAY[lowest - 1]) || counts
        || array_fill(0::bigint, ARRAY[151 - lowest - cardinality(counts)])
$$;

CREATE FUNCTION query_performance_note_late() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    rolled_before timestamptz;
BEGIN
    -- Held until the writer commits: the horizon only moves past rows that everybody can see.
    PERFORM pg_advisory_xact_lock_shared(hashtext('query_performance_horizon'));
    SELECT horizon INTO rolled_before FROM query_performance_rolled;
    INSERT INTO query_performance_late
        SELECT DISTINCT date_bin('1 minute', occurred_at, 'epoch') FROM arrived WHERE occurred_at < rolled_before
        ORDER BY 1
        ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

-- First step of a roll-up, in a transaction of its own: wait for the writers under way, and have those that come later
-- note what they add from before ``upto``.
CREATE FUNCTION query_performance_close(upto timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('query_performance_horizon'));
    UPDATE query_performance_rolled SET horizon = greatest(horizon, date_bin('1 minute', upto, 'epoch'));
END $$;

-- The minutes from ``first`` to ``past`` as they are stored, from the rows themselves.
CREATE FUNCTION query_performance_counted(first timestamptz, past timestamptz) RETURNS SETOF query_performance_rollup
LANGUAGE sql STABLE AS $$
    SELECT '1m', minute, variant, stage, sum(errors)::bigint, min(latency),
           (latency_histogram(latency, n))[min(latency):max(latency)]
    FROM (
        SELECT date_bin('1 minute', occurred_at, 'epoch') AS minute, variant, stage,
               latency_bucket(duration_ms) AS latency, count(*) AS n, count(*) FILTER (WHERE status >= 500) AS errors
        FROM query_performance
        CROSS JOIN LATERAL (VALUES
            ('embed', embed_ms), ('retrieval', retrieval_ms), ('feature', feature_ms), ('ltr', ltr_ms),
            ('fusion', fusion_ms), ('pipeline', pipeline_ms), ('generation', generation_ms), ('stt', stt_ms),
            ('tts', tts_ms)
        ) AS timed(stage, duration_ms)
        WHERE duration_ms IS NOT NULL AND occurred_at >= first AND occurred_at < past
        GROUP BY 1, 2, 3, 4
    ) AS counted
    GROUP BY minute, variant, stage
$$;

-- Make the given buckets of one granularity anew from the finer one.
CREATE FUNCTION query_performance_fold(coarse text, fine text, width interval, wanted timestamptz[]) RETURNS void
LANGUAGE sql AS $$
    DELETE FROM query_performance_rollup WHERE granularity = coarse AND bucket = ANY (wanted);
    WITH pieces AS (
        SELECT wide.bucket, variant, stage, errors, lowest, counts
        FROM unnest(wanted) AS wide(bucket)
        JOIN query_performance_rollup AS narrow
          ON narrow.granularity = fine AND narrow.bucket >= wide.bucket AND narrow.bucket < wide.bucket + width
    ), counted AS (
        SELECT bucket, variant, stage, (lowest + place - 1)::integer AS latency, sum(amount)::bigint AS n
        FROM pieces CROSS JOIN LATERAL unnest(counts) WITH ORDINALITY AS listed(amount, place)
        GROUP BY 1, 2, 3, 4
    ), failed AS (
        SELECT bucket, variant, stage, sum(errors)::bigint AS errors FROM pieces GROUP BY 1, 2, 3
    )
    INSERT INTO query_performance_rollup
    SELECT coarse, bucket, variant, stage, min(failed.errors), min(latency),
           (latency_histogram(latency, n))[min(latency):max(latency)]
    FROM counted JOIN failed USING (bucket, variant, stage)
    GROUP BY bucket, variant, stage
$$;

-- Second step of a roll-up: from the watermark on, to ``upto`` and at most ``at_most`` of time with rows; then the
-- minutes that late rows changed. The new watermark. One runs at a time.
CREATE FUNCTION query_performance_roll_up(upto timestamptz, at_most interval) RETURNS timestamptz LANGUAGE plpgsql AS $$
DECLARE
    former timestamptz;
    first  timestamptz;
    past   timestamptz;
    late   timestamptz[];
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('query_performance_roll_up'));
    SELECT watermark, least(horizon, date_bin('1 minute', upto, 'epoch')) INTO former, past FROM query_performance_rolled;
    first := former;
    IF first < past THEN
        -- Time without a row is passed over.
        SELECT coalesce(date_bin('1 minute', min(occurred_at), 'epoch'), past) INTO first
            FROM query_performance WHERE occurred_at >= first AND occurred_at < past;
        past := least(past, first + at_most);
    ELSE
        past := first;
    END IF;
    -- Nothing was ever rolled up, and there is nothing that could be.
    IF NOT isfinite(past) THEN
        RETURN past;
    END IF;

    WITH taken AS (DELETE FROM query_performance_late WHERE minute < past RETURNING minute)
        SELECT coalesce(array_agg(minute) FILTER (WHERE minute < first), '{}') INTO late FROM taken;
    DELETE FROM query_performance_rollup
        WHERE granularity = '1m' AND (bucket = ANY (late) OR bucket >= first AND bucket < past);
    INSERT INTO query_performance_rollup SELECT * FROM query_performance_counted(first, past);
    INSERT INTO query_performance_rollup
        SELECT counted.* FROM unnest(late) AS listed(minute),
            LATERAL query_performance_counted(minute, minute + interval '1 minute') AS counted;

    -- An hour is over when the watermark leaves it, even if its last minutes held nothing.
    former := CASE WHEN isfinite(former) THEN former ELSE first END;

    PERFORM query_performance_fold('1h', '1m', '1 hour', query_performance_touched('1 hour', late, former, past));
    PERFORM query_performance_fold('1d', '1h', '1 day', query_performance_touched('1 day', late, former, past));
    UPDATE query_performance_rolled SET watermark = past;
    RETURN past;
END $$;

-- The buckets of ``width`` that are over by ``past`` and hold a late minute or one of those from ``former`` on.
CREATE FUNCTION query_performance_touched(
    width interval, late timestamptz[], former timestamptz, past timestamptz
) RETURNS timestamptz[] LANGUAGE sql IMMUTABLE AS $$
    SELECT coalesce(array_agg(bucket), '{}') FROM (
        SELECT date_bin(width, minute, 'epoch') AS bucket FROM unnest(late) AS listed(minute)
        UNION
        SELECT generate_series(date_bin(width, former, 'epoch'), past, width)
    ) AS all_of_them
    WHERE bucket < date_bin(width, past, 'epoch')
$$;
"""

DROP_FUNCTIONS = """
DROP FUNCTION query_performance_touched(interval, timestamptz[], timestamptz, timestamptz);
DROP FUNCTION query_performance_roll_up(timestamptz, interval);
DROP FUNCTION query_performance_fold(text, text, interval, timestamptz[]);
DROP FUNCTION query_performance_counted(timestamptz, timestamptz);
DROP FUNCTION query_performance_close(timestamptz);
DROP FUNCTION query_performance_note_late();
DROP FUNCTION latency_histogram_dense(integer, bigint[]);
"""

TRIGGER = """
CREATE TRIGGER query_performance_note_late AFTER INSERT ON query_performance
    REFERENCING NEW TABLE AS arrived FOR EACH STATEMENT EXECUTE FUNCTION query_performance_note_late();
"""

DROP_TRIGGER = "DROP TRIGGER query_performance_note_late ON query_performance"

VIEW_1M = """
CREATE OR REPLACE VIEW query_performance_1m AS
SELECT bucket, variant, stage, (SELECT sum(amount) FROM unnest(counts) AS listed(amount))::bigint AS n, errors,
       latency_histogram_dense(lowest, counts) AS histogram
FROM query_performance_rollup
WHERE granularity = '1m' AND bucket < (SELECT watermark FROM query_performance_rolled)
UNION ALL
SELECT bucket, variant, stage, sum(n)::bigint, sum(errors)::bigint, latency_histogram(latency, n)
FROM (
    SELECT date_bin('1 minute', occurred_at, 'epoch') AS bucket, variant, stage,
           latency_bucket(duration_ms) AS latency, count(*) AS n, count(*) FILTER (WHERE status >= 500) AS errors
    FROM query_performance
    CROSS JOIN LATERAL (VALUES
        ('embed', embed_ms), ('retrieval', retrieval_ms), ('feature', feature_ms), ('ltr', ltr_ms),
        ('fusion', fusion_ms), ('pipeline', pipeline_ms), ('generation', generation_ms), ('stt', stt_ms), ('tts', tts_ms)
    ) AS timed(stage, duration_ms)
    WHERE duration_ms IS NOT NULL AND occurred_at >= (SELECT watermark FROM query_performance_rolled)
    GROUP BY 1, 2, 3, 4
) AS counted
GROUP BY bucket, variant, stage
"""

# The bucket that the watermark lies in, and those after it, from the finer view.
WIDER_VIEW = """
CREATE OR REPLACE VIEW query_performance_{coarse} AS
SELECT bucket, variant, stage, (SELECT sum(amount) FROM unnest(counts) AS listed(amount))::bigint AS n, errors,
       latency_histogram_dense(lowest, counts) AS histogram
FROM query_performance_rollup
WHERE granularity = '{coarse}'
  AND bucket < (SELECT date_bin('{width}', watermark, 'epoch') FROM query_performance_rolled)
UNION ALL
SELECT bucket, variant, stage, sum(n)::bigint, sum(errors)::bigint, latency_histogram_sum(histogram)
FROM (
    SELECT date_bin('{width}', bucket, 'epoch') AS bucket, variant, stage, n, errors, histogram
    FROM query_performance_{fine}
    WHERE bucket >= (SELECT date_bin('{width}', watermark, 'epoch') FROM query_performance_rolled)
) AS narrow
GROUP BY bucket, variant, stage
"""

VIEWS = (
    VIEW_1M,
    WIDER_VIEW.format(coarse="1h", fine="1m", width="1 hour"),
    WIDER_VIEW.format(coarse="1d", fine="1h", width="1 day"),
)


_former = import_module("ops.migrations.0002_query_performance")
FORMER_VIEWS = [
    _former.VIEW.format(suffix=suffix, width=width).replace("CREATE VIEW", "CREATE OR REPLACE VIEW")
    for suffix, width in _former.VIEWS.items()
]


class Migration(migrations.Migration):
    dependencies = [("ops", "0002_query_performance")]

    operations = [
        migrations.RunSQL(PLUS, FORMER_PLUS),
        migrations.RunSQL(TABLES, DROP_TABLES),
        migrations.RunSQL(FUNCTIONS, DROP_FUNCTIONS),
        migrations.RunSQL(TRIGGER, DROP_TRIGGER),
        *(migrations.RunSQL(view, former) for view, former in zip(VIEWS, FORMER_VIEWS, strict=True)),
    ]
