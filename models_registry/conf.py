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
)
