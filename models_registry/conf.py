"""Environment variables of the model registry."""

from ops.contracts.env import Kind, Variable, declare

declare(
    Variable(
        "RAG_FUSION_LTR_WEIGHT",
        Kind.FLOAT,
        "LTR weight of the first fusion weights version; later versions are made in the admin or by API.",
        default=0.8,
        minimum=0,
        maximum=1_000_000,
        deprecated_names=("FUSION_LTR_WEIGHT",),
    ),
    Variable(
        "RAG_FUSION_CONCEPTUAL_WEIGHT",
        Kind.FLOAT,
        "Conceptual weight of the first fusion weights version.",
        default=0.2,
        minimum=0,
        maximum=1_000_000,
        deprecated_names=("FUSION_CONCEPTUAL_WEIGHT",),
    ),
    Variable(
        "REGISTRY_REFRESH_INTERVAL_MS",
        Kind.INTEGER,
        "How old a process's view of the live deployments may become before it looks again.",
        default=500,
        minimum=0,
        maximum=1000,
    ),
    Variable(
        "REGISTRY_ARTIFACT_MAX_BYTES",
        Kind.INTEGER,
        "Largest file of a model version, in bytes.",
        default=4 * 1024 * 1024 * 1024,
        minimum=1024,
        maximum=1024 * 1024 * 1024 * 1024,
    ),
    Variable(
        "REGISTRY_STATISTICS_RETENTION_DAYS",
        Kind.INTEGER,
        "Days of model statistics, by the quarter of an hour, that are kept.",
        default=90,
        minimum=1,
        maximum=3650,
    ),
    Variable(
        "REGISTRY_SPACE_KEEP_HOURS",
        Kind.INTEGER,
        "Hours after the switch to another embedder in which the vectors from before are kept, complete, for a "
        "rollback; a build may say otherwise. 0: until somebody drops them.",
        default=168,
        minimum=0,
        maximum=8760,
    ),
    Variable(
        "REGISTRY_DISCOVER_DIRS",
        Kind.LIST,
        "Folders in which models are looked for: sentence-transformers, Whisper, Piper voices, trained rankers.",
        default=(),
    ),
    Variable(
        "REGISTRY_OLLAMA_URLS",
        Kind.LIST,
        "Addresses of Ollama servers whose models are listed, such as http://127.0.0.1:11434.",
        default=(),
    ),
    Variable(
        "REGISTRY_OPENAI_URLS",
        Kind.LIST,
        "Addresses, with /v1, of servers that speak OpenAI's protocol and whose models are listed.",
        default=(),
    ),
    Variable(
        "REGISTRY_OPENAI_API_KEY",
        Kind.STRING,
        "Key that is sent to the servers of REGISTRY_OPENAI_URLS.",
        default="",
        secret=True,
    ),
    Variable(
        "REGISTRY_DISCOVER_INTERVAL_S",
        Kind.INTEGER,
        "How often models are looked for; 0: only when somebody asks.",
        default=300,
        minimum=0,
        maximum=86_400,
    ),
)
