"""Environment variables of retrieval."""

from collections.abc import Iterator

from ops.contracts.env import Environment, Fault, Kind, Variable, declare, declare_rule, unencrypted

declare(
    Variable(
        "RAG_DEFAULT_COLLECTION",
        Kind.STRING,
        "Collection that is searched when a request names none.",
        default="default",
    ),
    Variable(
        "RAG_TOP_K_DEFAULT",
        Kind.INTEGER,
        "Results of a request that does not say how many.",
        default=10,
        minimum=1,
        maximum=1000,
        deprecated_names=("RAG_TOP_K",),
    ),
    Variable("RAG_TOP_K_MAX", Kind.INTEGER, "Most results of one request.", default=100, minimum=100, maximum=1000),
    Variable(
        "RAG_QUERY_MAX_CHARACTERS",
        Kind.INTEGER,
        "Longest query, in characters. Of a long one the first 1,000 words and as much as the embedder takes decide.",
        default=100_000,
        minimum=16,
        maximum=1_000_000,
    ),
    Variable(
        "RAG_CANDIDATE_DEPTH",
        Kind.INTEGER,
        "Candidates taken from each of dense and lexical retrieval; it does not depend on top_k.",
        default=100,
        minimum=10,
        maximum=1000,
    ),
    Variable(
        "RAG_RETRIEVAL_MODE",
        Kind.STRING,
        "Where candidates come from.",
        default="pgvector",
        choices=("pgvector", "supabase_rpc", "milvus"),
    ),
    Variable(
        "RAG_RETRIEVAL_TIMEOUT_S",
        Kind.FLOAT,
        "Longest wait for the server of supabase_rpc or milvus, in seconds; then a query is answered by its words.",
        default=2,
        minimum=0.05,
        maximum=60,
    ),
    Variable(
        "RAG_RETRIEVAL_PAUSE_S",
        Kind.FLOAT,
        "How long that server is left alone after three failures in a row, in seconds, before it is tried again.",
        default=5,
        minimum=0,
        maximum=3600,
    ),
    Variable(
        "SUPABASE_URL",
        Kind.URL,
        "Address of the Supabase project, such as https://abc.supabase.co, for RAG_RETRIEVAL_MODE=supabase_rpc.",
        risk=unencrypted("SUPABASE_URL"),
    ),
    Variable(
        "SUPABASE_KEY",
        Kind.STRING,
        "Service key of the Supabase project: it may call match_documents, which the anonymous key may not.",
        secret=True,
    ),
    Variable(
        "SUPABASE_VAULT_SECRET",
        Kind.STRING,
        "Name of the secret in Supabase Vault (the view vault.decrypted_secrets of the database) that holds "
        "SUPABASE_KEY, when neither the environment nor VAULT_ADDR has it.",
    ),
    Variable(
        "MILVUS_URI",
        Kind.STRING,
        "Address of the Milvus cluster, such as https://milvus.example:19530, for RAG_RETRIEVAL_MODE=milvus; or a file "
        "ending in .db for Milvus Lite, which serves one process alone.",
    ),
    Variable("MILVUS_TOKEN", Kind.STRING, "Token of the Milvus cluster, or user:password.", secret=True),
    Variable(
        "MILVUS_COLLECTION_PREFIX",
        Kind.STRING,
        "What the names of ZenGlow's collections in Milvus begin with: another for each installation on a cluster.",
        default="zenglow",
    ),
    Variable(
        "MILVUS_DENSE_INDEX",
        Kind.STRING,
        "Vector index in Milvus: FLAT is exact, AUTOINDEX what the cluster thinks best. For copies built from then on.",
        default="AUTOINDEX",
        choices=("AUTOINDEX", "FLAT"),
    ),
    Variable(
        "MILVUS_WRITE_TIMEOUT_S",
        Kind.FLOAT,
        "Longest time for one write to Milvus, in seconds.",
        default=30,
        minimum=1,
        maximum=600,
    ),
    Variable(
        "RAG_RESPONSE_CACHE_TTL_S",
        Kind.INTEGER,
        "How long a whole answer is kept, in seconds; 0 turns the response cache off.",
        default=300,
        minimum=0,
        maximum=86_400,
    ),
    Variable(
        "RAG_FEATURE_CACHE_TTL_S",
        Kind.INTEGER,
        "How long a query's candidates and scores are kept, in seconds; 0 turns the feature cache off.",
        default=900,
        minimum=0,
        maximum=86_400,
    ),
    Variable(
        "RAG_RESPONSE_MEMORY_MB",
        Kind.INTEGER,
        "Memory of each web process for the answers that it gave last, in megabytes, so that they need not come from "
        "Redis; 0: all do. 1 MB holds about 100, each for as long as Redis would.",
        default=16,
        minimum=0,
        maximum=65_536,
    ),
    Variable(
        "RAG_ANN_RECALL_FLOOR",
        Kind.FLOAT,
        "Share of the ten nearest that a vector index must find, measured, to be put live without force.",
        default=0.95,
        minimum=0,
        maximum=1,
    ),
    Variable(
        "RAG_ANN_BUILD_MEMORY_MB",
        Kind.INTEGER,
        "Memory for building a vector index, in megabytes; 0: the server's maintenance_work_mem. An HNSW index that "
        "does not fit takes many times as long.",
        default=0,
        minimum=0,
        maximum=1_048_576,
    ),
    Variable(
        "RAG_PASSAGE_MEMORY_MB",
        Kind.INTEGER,
        "Memory of each process for the passages that were found last, in megabytes; what is in it need not be read to "
        "be ranked. 1 MB holds about 400; 0 reads each time.",
        default=64,
        minimum=0,
        maximum=65_536,
    ),
    Variable(
        "RAG_RESIDENT_CHUNKS",
        Kind.INTEGER,
        "Up to how many chunks each web process holds a collection that is searched exactly in its memory, about 3 "
        "kB a chunk; 0 has PostgreSQL compare the vectors of each query.",
        default=20_000,
        minimum=0,
        maximum=1_000_000,
    ),
    Variable(
        "RAG_RESIDENT_POSTINGS_MB",
        Kind.INTEGER,
        "Memory in each web process for the postings of words that were searched for, 16 bytes for each passage that "
        "holds one; 0 has PostgreSQL add them up for each query.",
        default=64,
        minimum=0,
        maximum=65_536,
    ),
    Variable(
        "RAG_EMBED_THREADS",
        Kind.INTEGER,
        "Threads of the embedder in each process that serves queries. More than the free cores makes it slower.",
        default=1,
        minimum=1,
        maximum=64,
    ),
    Variable(
        "RAG_EMBED_PASSES",
        Kind.INTEGER,
        "Queries, or batches of them, that one process embeds at once; 0: as many as its processors allow, of which "
        "each takes `RAG_EMBED_THREADS` and which web processes divide among themselves.",
        default=0,
        minimum=0,
        maximum=64,
    ),
    Variable(
        "RAG_EMBED_BATCH_MAX",
        Kind.INTEGER,
        "Most queries that share a pass of the embedder while it is busy; 1 embeds each by itself.",
        default=16,
        minimum=1,
        maximum=256,
    ),
    Variable(
        "RAG_EMBED_BATCH_WAIT_MS",
        Kind.FLOAT,
        "How long a batch waits for more queries, only while queries queue up; a single caller never waits.",
        default=2,
        minimum=0,
        maximum=100,
    ),
    Variable(
        "RAG_INDEX_THREADS",
        Kind.INTEGER,
        "Threads of the embedder in a process that indexes documents.",
        default=2,
        minimum=1,
        maximum=64,
    ),
    Variable(
        "RAG_INDEX_BATCH_DOCUMENTS",
        Kind.INTEGER,
        "Documents that one background task indexes.",
        default=32,
        minimum=1,
        maximum=1000,
    ),
    Variable(
        "RAG_DOCUMENT_MAX_BYTES",
        Kind.INTEGER,
        "Largest document, in bytes.",
        default=20 * 1024 * 1024,
        minimum=1024,
        maximum=1024 * 1024 * 1024,
    ),
    Variable(
        "RAG_REQUEST_MAX_BYTES",
        Kind.INTEGER,
        "Largest request body of the document API, in bytes.",
        default=50 * 1024 * 1024,
        minimum=1024,
        maximum=4 * 1024 * 1024 * 1024,
    ),
    Variable(
        "RAG_SOURCE_FOLDERS",
        Kind.LIST,
        "Folders of this machine that sources may read, with all below them; without any, no source may be a folder.",
        default=(),
        risk=lambda value, stage: (
            "RAG_SOURCE_FOLDERS opens the whole machine to whoever makes sources: name the folders that are meant."
            if "/" in value
            else None
        ),
    ),
    Variable(
        "RAG_SOURCE_SECRETS_DIR",
        Kind.PATH,
        "Folder with one file for each secret that sources name: a token of a Git server, the keys of a bucket.",
    ),
    Variable(
        "RAG_SOURCE_MAX_ITEMS",
        Kind.INTEGER,
        "Most documents of one source; what goes beyond is left out, and the source says so.",
        default=100_000,
        minimum=1,
        maximum=10_000_000,
    ),
    Variable(
        "RAG_SOURCE_TIMEOUT_S",
        Kind.INTEGER,
        "Longest look at a source, in seconds; the next one goes on. Below the hour after which a task counts as lost.",
        default=3000,
        minimum=10,
        maximum=3500,
    ),
    Variable(
        "RAG_SOURCE_FETCH_TIMEOUT_S",
        Kind.FLOAT,
        "Longest time for one page or object of a source, in seconds.",
        default=30,
        minimum=1,
        maximum=600,
    ),
    Variable(
        "RAG_SOURCE_WEB_DELAY_S",
        Kind.FLOAT,
        "Pause between two requests to a web site, in seconds, where neither the source nor robots.txt says more.",
        default=1,
        minimum=0,
        maximum=60,
    ),
    Variable(
        "RAG_SOURCE_GIT_MAX_BYTES",
        Kind.INTEGER,
        "Largest pack that may be fetched of a Git repository, in bytes.",
        default=1024 * 1024 * 1024,
        minimum=1024 * 1024,
        maximum=1024 * 1024 * 1024 * 1024,
    ),
    Variable(
        "RAG_BULK_MAX_DOCUMENTS",
        Kind.INTEGER,
        "Most documents of one bulk request.",
        default=1000,
        minimum=1,
        maximum=100_000,
    ),
    Variable(
        "RAG_PARSE_TIMEOUT_S",
        Kind.FLOAT,
        "Longest time for parsing one document, in seconds.",
        default=30,
        minimum=1,
        maximum=600,
    ),
    Variable(
        "RAG_PARSE_MEMORY_MB",
        Kind.INTEGER,
        "Most memory for parsing one document, in megabytes.",
        default=1024,
        minimum=256,
        maximum=65_536,
    ),
    Variable(
        "RAG_DELETED_RETENTION_HOURS",
        Kind.INTEGER,
        "How long a deleted document can be restored.",
        default=24,
        minimum=0,
        maximum=8760,
    ),
    Variable(
        "RAG_INDEX_RUN_RETENTION_DAYS",
        Kind.INTEGER,
        "Days that finished index runs, with what became of each document, are kept.",
        default=30,
        minimum=1,
        maximum=3650,
    ),
    Variable(
        "RAG_QUERY_LOG",
        Kind.STRING,
        "What the query log keeps of a query's text.",
        default="scrubbed",
        choices=("scrubbed", "clear", "off"),
        risk=lambda value, stage: (
            "RAG_QUERY_LOG is clear: whatever people type, names and numbers included, is kept as it is."
            if stage != "local" and value == "clear"
            else None
        ),
    ),
    Variable(
        "RAG_QUERY_LOG_RETENTION_DAYS",
        Kind.INTEGER,
        "Days that logged queries are kept.",
        default=90,
        minimum=1,
        maximum=3650,
    ),
    Variable(
        "ZENGLOW_COLLECTIONS_DIR",
        Kind.PATH,
        "Folder with public test collections in BEIR layout, one folder each; tests and training use it when set.",
    ),
)

declare(
    Variable(
        "RAG_ANSWER_PASSAGES",
        Kind.INTEGER,
        "Passages that an answer is made of, where neither the question nor its agent says how many.",
        default=8,
        minimum=1,
        maximum=50,
    ),
    Variable(
        "RAG_ANSWER_THRESHOLD",
        Kind.FLOAT,
        "Confidence in [0, 1] below which an answer is that the passages don't say; `manage.py answers calibrate` "
        "measures it.",
        default=0.39,
        minimum=0,
        maximum=1,
    ),
    Variable(
        "RAG_ANSWER_SUPPORT_THRESHOLD",
        Kind.FLOAT,
        "Support in [0, 1] below which a sentence of an answer is marked as not backed by what it cites.",
        default=0.5,
        minimum=0,
        maximum=1,
    ),
    Variable(
        "RAG_MODEL_CONNECT_TIMEOUT_S",
        Kind.FLOAT,
        "Longest wait for a connection to a server of language models, in seconds.",
        default=3,
        minimum=0.05,
        maximum=60,
    ),
    Variable(
        "RAG_MODEL_FIRST_TOKEN_TIMEOUT_S",
        Kind.FLOAT,
        "Longest wait for a model's first token, and between two of its tokens, in seconds: it may have to be loaded.",
        default=60,
        minimum=0.05,
        maximum=3600,
    ),
    Variable(
        "RAG_MODEL_TOTAL_TIMEOUT_S",
        Kind.FLOAT,
        "Longest time for a model's whole answer, in seconds.",
        default=300,
        minimum=0.1,
        maximum=3600,
    ),
    Variable(
        "RAG_MODEL_PAUSE_S",
        Kind.FLOAT,
        "How long a server of language models is left alone after three failures in a row, in seconds.",
        default=10,
        minimum=0,
        maximum=3600,
    ),
    Variable(
        "RAG_ANSWER_RESUME_S",
        Kind.INTEGER,
        "How long the events of an answer are kept, so that a connection that broke can be resumed, in seconds.",
        default=60,
        minimum=0,
        maximum=3600,
    ),
    Variable(
        "RAG_ANSWERS_AT_ONCE",
        Kind.INTEGER,
        "Answers that one web server process writes at once; whoever asks for one more is told to try again soon.",
        default=400,
        minimum=1,
        maximum=100_000,
    ),
    Variable(
        "RAG_CONVERSATION_RETENTION_DAYS",
        Kind.INTEGER,
        "Days after which a conversation that nobody added to is deleted.",
        default=180,
        minimum=1,
        maximum=3650,
    ),
)

NEEDED_BY_MODE = {"supabase_rpc": ("SUPABASE_URL", "SUPABASE_KEY"), "milvus": ("MILVUS_URI",)}
"""What a retrieval mode can't work without."""

VAULTS = ("VAULT_ADDR", "SUPABASE_VAULT_SECRET")
"""Each names a vault that may hold SUPABASE_KEY; the first that is set is asked."""


@declare_rule
def _of_the_retrieval_mode(loaded: Environment) -> Iterator[Fault]:
    in_force = loaded["RAG_RETRIEVAL_MODE"]
    for mode, names in NEEDED_BY_MODE.items():
        for name in names:
            is_in_vault = name == "SUPABASE_KEY" and any(loaded[vault] for vault in VAULTS)
            if mode == in_force and not loaded[name] and not is_in_vault:
                yield Fault("missing", name, f"{name} is missing: RAG_RETRIEVAL_MODE={mode} can't work without it.")
            elif mode != in_force and loaded.is_set(name):
                message = f"{name} is set, but RAG_RETRIEVAL_MODE={in_force} makes no use of it."
                yield Fault("contradictory", name, message)


@declare_rule
def _of_sizes(loaded: Environment) -> Iterator[Fault]:
    for smaller, larger in (
        ("RAG_TOP_K_DEFAULT", "RAG_TOP_K_MAX"),
        ("RAG_DOCUMENT_MAX_BYTES", "RAG_REQUEST_MAX_BYTES"),
    ):
        if loaded[smaller] > loaded[larger]:
            message = f"{smaller} ({loaded[smaller]}) is more than {larger} ({loaded[larger]}), which wins."
            yield Fault("contradictory", smaller, message)


@declare_rule
def _of_vaults(loaded: Environment) -> Iterator[Fault]:
    sources = [name for name in ("SUPABASE_KEY", *VAULTS) if loaded[name]]
    for name in sources[1:]:
        yield Fault("contradictory", name, f"{name} is not used: {sources[0]} comes first.")
