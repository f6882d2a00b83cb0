"""Places that documents are fetched from, again and again: folders, web sites, Git repositories, S3 buckets.

`connectors` has one module for each kind of place; `sync` compares a place with what is known of it and hands the
difference to indexing; `service` makes, changes and schedules sources. All that is fetched comes in through
`rag.ingest.service.start_run`, as everything else does.
"""
