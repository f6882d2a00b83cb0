"""Environment variables of operations: keys, limits, logs, the performance store."""

from collections.abc import Iterator

from ops.contracts.env import Environment, Fault, Kind, Variable, declare, declare_rule, unencrypted

declare(
    Variable(
        "ENABLE_API_KEYS",
        Kind.BOOLEAN,
        "Require an API key or a signed-in user on every route. Always on by default when the server can be reached "
        "from elsewhere (a bind address that is not loopback, or the service profile).",
        default=None,
        stage_defaults={"staging": True, "prod": True},
        risk=lambda value, stage: (
            "ENABLE_API_KEYS is off: whoever reaches the server may do everything." if value is False else None
        ),
    ),
    Variable(
        "ZENGLOW_ALLOW_ANONYMOUS",
        Kind.BOOLEAN,
        "Let anybody who reaches the server in without a key, with every right. Only for closed networks.",
        default=False,
        risk=lambda value, stage: (
            "ZENGLOW_ALLOW_ANONYMOUS is on: keep the server off networks that others use." if value else None
        ),
    ),
    Variable(
        "PROMETHEUS_MULTIPROC_DIR",
        Kind.PATH,
        "Folder in which web servers and workers of one machine keep their counts, so that /metrics of any of them "
        "tells those of all. It must exist and be the same for each; `manage.py serve` sets it by itself.",
    ),
    Variable(
        "OPS_TRACE_URL",
        Kind.STRING,
        "Where the trace of a request is shown: the dashboard links slow queries to it, with `{request_id}` replaced, "
        "which is the attribute `zenglow.request_id` of the request's span. Of Jaeger: https://jaeger.example/search?"
        "service=zenglow&lookback=2d&tags=%7B%22zenglow.request_id%22%3A%22{request_id}%22%7D.",
    ),
    Variable(
        "OPS_LOG_FORMAT",
        Kind.STRING,
        "How log lines look: `json` is an object a line, `console` is for people to read, and `auto` is `console` on a "
        "terminal and `json` in files and pipes.",
        default="auto",
        stage_defaults={"staging": "json", "prod": "json"},
        choices=("auto", "console", "json"),
    ),
    Variable(
        "OPS_LOG_LEVEL",
        Kind.STRING,
        "Lowest level that is logged.",
        default="INFO",
        choices=("DEBUG", "INFO", "WARNING", "ERROR"),
        risk=lambda value, stage: (
            "OPS_LOG_LEVEL is DEBUG in production: the log grows fast and tells more than it should."
            if stage == "prod" and value == "DEBUG"
            else None
        ),
    ),
    Variable(
        "OPS_LOG_FILE",
        Kind.PATH,
        "File that log lines are appended to, for each process. Default: standard error.",
    ),
    Variable(
        "OPS_SCRUB_FIELDS",
        Kind.LIST,
        "Names of further fields whose value is written nowhere: not in logs, traces or logged queries. "
        "`date_of_birth` also means `dateOfBirth` and `patient_date_of_birth`.",
        default=(),
    ),
    Variable(
        "OPS_PERFORMANCE_FLUSH_INTERVAL_MS",
        Kind.INTEGER,
        "How long rows of query_performance wait in memory before they are written together.",
        default=1000,
        minimum=50,
        maximum=60_000,
    ),
    Variable(
        "OPS_PERFORMANCE_BUFFER_ROWS",
        Kind.INTEGER,
        "Most rows of query_performance kept in memory; further rows are counted as lost.",
        default=10_000,
        minimum=100,
        maximum=1_000_000,
    ),
    Variable(
        "OPS_PERFORMANCE_RETENTION_DAYS",
        Kind.INTEGER,
        "Days of query_performance that are kept.",
        default=90,
        minimum=1,
        maximum=3650,
    ),
    Variable(
        "OPS_BACKUP_MAX_AGE_DAYS",
        Kind.INTEGER,
        "Age in days at which `manage.py doctor` calls the last `manage.py backup create` too old; 0 where backups are "
        "made in another way.",
        default=7,
        minimum=0,
        maximum=3650,
    ),
    # The standard variables of OpenTelemetry. What is not declared here (batch sizes, certificates and so on) is read
    # by the SDK itself, from the process environment.
    Variable(
        "OTEL_SDK_DISABLED",
        Kind.BOOLEAN,
        "Turn traces off, whatever else is set.",
        default=False,
    ),
    Variable(
        "OTEL_TRACES_EXPORTER",
        Kind.STRING,
        "Where traces go: `otlp` to a collector, `console` to standard output. Not set: to a collector if the address "
        "of one is set, else nowhere, at no cost.",
        choices=("none", "otlp", "console"),
        stage_defaults={"staging": "otlp"},
    ),
    Variable(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        Kind.URL,
        "Address of an OpenTelemetry collector, Jaeger or Tempo that takes OTLP over HTTP, such as "
        "`http://localhost:4318`; `/v1/traces` is added. The SDK takes that one when only the exporter is set.",
        risk=unencrypted("OTEL_EXPORTER_OTLP_ENDPOINT"),
    ),
    Variable(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        Kind.URL,
        "The same for traces alone, used as it is, with its path.",
    ),
    Variable(
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        Kind.STRING,
        "How spans are sent. Only OTLP over HTTP is installed.",
        default="http/protobuf",
        choices=("http/protobuf",),
    ),
    Variable(
        "OTEL_EXPORTER_OTLP_HEADERS",
        Kind.STRING,
        "Headers for the collector, such as `authorization=Basic%20…`.",
        secret=True,
    ),
    Variable(
        "OTEL_SERVICE_NAME",
        Kind.STRING,
        "Name of this installation in traces.",
        default="zenglow",
    ),
    Variable(
        "OTEL_RESOURCE_ATTRIBUTES",
        Kind.STRING,
        "Further attributes of this installation in traces, such as `deployment.environment.name=prod`.",
    ),
    Variable(
        "OTEL_TRACES_SAMPLER",
        Kind.STRING,
        "Which traces are kept. The `parentbased` ones follow a caller who sends a `traceparent`.",
        default="parentbased_always_on",
        stage_defaults={"prod": "parentbased_traceidratio"},
        choices=(
            *("always_on", "always_off", "traceidratio"),
            *("parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"),
        ),
    ),
    Variable(
        "OTEL_TRACES_SAMPLER_ARG",
        Kind.FLOAT,
        "Share of traces that the `traceidratio` samplers keep.",
        default=1.0,
        stage_defaults={"prod": 0.01},
        minimum=0,
        maximum=1,
    ),
    Variable(
        "OTEL_SEMCONV_STABILITY_OPT_IN",
        Kind.LIST,
        "Which of the semantic conventions are used in their stable form.",
        default=("http", "database"),
    ),
    Variable(
        "OPS_HEALTH_CACHE_S",
        Kind.FLOAT,
        "How long an answer of /health/ready is reused, in seconds.",
        default=2.0,
        minimum=0,
        maximum=60,
    ),
    Variable(
        "OPS_HEALTH_TIMEOUT_S",
        Kind.FLOAT,
        "Longest time one health check may take, in seconds.",
        default=2.0,
        minimum=0.1,
        maximum=30,
    ),
)

# Secrets that a vault keeps.
declare(
    Variable(
        "VAULT_ADDR",
        Kind.URL,
        "Address of a HashiCorp Vault or OpenBao that holds SUPABASE_KEY, such as https://vault.example:8200.",
        risk=unencrypted("VAULT_ADDR"),
    ),
    Variable(
        "VAULT_TOKEN",
        Kind.STRING,
        "Token that may read the secret, and nothing else.",
        secret=True,
        required_when="VAULT_ADDR",
    ),
    Variable("VAULT_NAMESPACE", Kind.STRING, "Namespace in Vault Enterprise."),
    Variable("VAULT_KV_MOUNT", Kind.STRING, "Mount of the KV store, version 2.", default="secret"),
    Variable("VAULT_KV_PATH", Kind.STRING, "Path of the secret in it.", default="zenglow"),
    Variable("VAULT_KV_FIELD", Kind.STRING, "Field of the secret.", default="SUPABASE_KEY"),
    Variable(
        "VAULT_TIMEOUT_S",
        Kind.FLOAT,
        "Longest wait for Vault, in seconds.",
        default=3,
        minimum=0.1,
        maximum=60,
    ),
    Variable(
        "VAULT_REFRESH_S",
        Kind.FLOAT,
        "How often the secret is read again, in seconds; one that can't be read stays in use.",
        default=300,
        minimum=1,
        maximum=86_400,
    ),
)

# Alerts.
declare(
    Variable(
        "OPS_EMAIL_URL",
        Kind.URL,
        "Mail server for alerts, such as smtp+tls://user:password@mail.example:587.",
        secret=True,
    ),
    Variable(
        "OPS_EMAIL_FROM",
        Kind.STRING,
        "Sender of alerts by mail.",
        default="zenglow@localhost",
    ),
)

# Security.
declare(
    Variable(
        "OPS_OUTGOING_ALLOWED",
        Kind.LIST,
        "Hosts, addresses and networks (hooks.internal, 10.1.2.3, 10.0.0.0/8) that configured URLs, such as webhooks, "
        "may lead to although they are not public.",
        default=(),
        risk=lambda value, stage: (
            "OPS_OUTGOING_ALLOWED opens whole networks to every configured URL: name the hosts that are meant."
            if any("/" in entry for entry in value)
            else None
        ),
    ),
    Variable(
        "OPS_TRUSTED_PROXIES",
        Kind.LIST,
        "Addresses and networks of the proxies whose X-Forwarded-For and X-Forwarded-Proto are believed.",
        default=("127.0.0.0/8", "::1"),
        risk=lambda value, stage: (
            "OPS_TRUSTED_PROXIES trusts everybody: whoever asks can then pass for any address."
            if any(entry.endswith("/0") for entry in value)
            else None
        ),
    ),
    Variable(
        "OPS_REQUIRE_CLIENT_CERTIFICATE",
        Kind.BOOLEAN,
        "Answer only what a trusted proxy says came with a client certificate that it has verified "
        "(X-Client-Verify: SUCCESS). docker/nginx/mtls.conf is such a proxy.",
        default=False,
    ),
    Variable(
        "OPS_METRICS_PASSWORD",
        Kind.STRING,
        "Password with which scrapers that know no bearer tokens read /metrics, by Basic authentication of the user "
        "metrics. Not set: API keys only.",
        secret=True,
    ),
    Variable(
        "OPS_RATE_LIMITS",
        Kind.BOOLEAN,
        "Limit how much each key, user and address may ask for. By default on when the server can be reached from "
        "elsewhere (a bind address that is not loopback, or the service profile).",
        default=None,
        stage_defaults={"staging": True, "prod": True},
        risk=lambda value, stage: (
            "OPS_RATE_LIMITS is off: one caller can take all of the server." if value is False else None
        ),
    ),
    *(
        Variable(
            f"OPS_RATE_LIMIT_{holder}_{suffix}",
            kind,
            f"{meaning} {whose}; a search costs 1.",
            default=default,
            minimum=minimum,
            maximum=1_000_000,
        )
        for holder, whose, per_s, burst in (
            ("KEY", "of one API key", 50.0, 200),
            ("USER", "of one signed-in user", 10.0, 100),
            ("IP", "from one address (of IPv6: one /64), all keys and users together", 100.0, 400),
        )
        for suffix, kind, meaning, default, minimum in (
            ("PER_S", Kind.FLOAT, "Tokens a second for requests", per_s, 0.001),
            ("BURST", Kind.INTEGER, "Most tokens at once for requests", burst, 1),
        )
    ),
)


@declare_rule
def _of_keys(loaded: Environment) -> Iterator[Fault]:
    name = "ZENGLOW_ALLOW_ANONYMOUS"
    if loaded[name] and loaded["ENABLE_API_KEYS"] and loaded.is_set("ENABLE_API_KEYS"):
        yield Fault("contradictory", name, f"{name} is on, but ENABLE_API_KEYS too: nobody gets in without a key.")


@declare_rule
def _of_traces(loaded: Environment) -> Iterator[Fault]:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        if not loaded.is_set(name):
            continue
        if loaded["OTEL_SDK_DISABLED"]:
            yield Fault("contradictory", name, f"{name} is set, but OTEL_SDK_DISABLED turns traces off.")
        elif loaded["OTEL_TRACES_EXPORTER"] in {"none", "console"}:
            exporter = loaded["OTEL_TRACES_EXPORTER"]
            message = f"{name} is set, but OTEL_TRACES_EXPORTER={exporter} sends nothing there."
            yield Fault("contradictory", name, message)
