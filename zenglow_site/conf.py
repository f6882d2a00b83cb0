"""Environment variables of the site: where it runs, its stores, its secret."""

from collections.abc import Iterator
from pathlib import Path

from ops.contracts.env import Environment, Fault, Kind, Variable, declare, declare_rule, unencrypted

declare(
    Variable(
        "ZENGLOW_ENV",
        Kind.STRING,
        "Stage of this deployment; sets the defaults of other variables.",
        default="local",
        choices=("local", "staging", "prod"),
    ),
    Variable(
        "ZENGLOW_DATA_DIR",
        Kind.PATH,
        "Folder for data, sockets, logs and uploaded originals. Default: var/ beside manage.py.",
        default=Path(__file__).resolve().parent.parent / "var",
    ),
    Variable("ZENGLOW_HOST", Kind.STRING, "Address that the server listens on.", default="127.0.0.1"),
    Variable(
        "ZENGLOW_PORT",
        Kind.INTEGER,
        "Port that the server listens on.",
        default=8000,
        minimum=1,
        maximum=65_535,
    ),
    Variable(
        "ZENGLOW_ALLOWED_HOSTS",
        Kind.LIST,
        "Host names that the server answers to, besides loopback names.",
        default=(),
        risk=lambda value, stage: (
            "ZENGLOW_ALLOWED_HOSTS holds *: whoever sends a false Host header chooses where links lead."
            if "*" in value
            else None
        ),
    ),
    Variable(
        "ZENGLOW_TRUSTED_ORIGINS",
        Kind.LIST,
        "Origins (https://host) whose pages may post to this server, for a proxy that terminates TLS.",
        default=(),
    ),
    Variable(
        "ZENGLOW_OIDC_ISSUER",
        Kind.URL,
        "Address of the OpenID Connect provider for single sign-on, such as https://login.example/realms/staff.",
        risk=unencrypted("ZENGLOW_OIDC_ISSUER"),
    ),
    Variable("ZENGLOW_OIDC_CLIENT_ID", Kind.STRING, "Client id that the provider gave this installation."),
    Variable("ZENGLOW_OIDC_CLIENT_SECRET", Kind.STRING, "Client secret that belongs to it.", secret=True),
    Variable(
        "ZENGLOW_OIDC_NAME",
        Kind.STRING,
        "What the button on the sign-in page calls the provider.",
        default="single sign-on",
    ),
    Variable(
        "ZENGLOW_OIDC_GROUPS_CLAIM",
        Kind.STRING,
        "Claim with the names of somebody's groups, which become the groups of access lists at each sign-in.",
        default="groups",
    ),
    Variable(
        "ZENGLOW_OIDC_ADMIN_GROUP",
        Kind.STRING,
        "Group whose members administer; empty: the provider makes nobody an administrator.",
    ),
    Variable(
        "ZENGLOW_SECURE_COOKIES",
        Kind.BOOLEAN,
        "Serve pages over HTTPS only: secure cookies, redirect to HTTPS, HSTS. Always on with ZENGLOW_TLS_CERTIFICATE.",
        default=False,
        stage_defaults={"prod": True},
        risk=lambda value, stage: (
            "ZENGLOW_SECURE_COOKIES is off in production: sessions travel over plain HTTP."
            if stage == "prod" and not value
            else None
        ),
    ),
    Variable(
        "ZENGLOW_TLS_CERTIFICATE",
        Kind.PATH,
        "PEM file with the server's certificate and its chain: the server then speaks TLS itself. Read at each start.",
    ),
    Variable(
        "ZENGLOW_TLS_KEY",
        Kind.PATH,
        "PEM file with the private key of ZENGLOW_TLS_CERTIFICATE, not encrypted; for the server's account alone.",
        required_when="ZENGLOW_TLS_CERTIFICATE",
    ),
    Variable(
        "ZENGLOW_TLS_CLIENT_CA",
        Kind.PATH,
        "PEM file with the authorities of clients: every connection then needs a certificate of one of them (mTLS).",
    ),
    Variable(
        "ZENGLOW_SECRET_KEY",
        Kind.STRING,
        "Secret that signs sessions and keys the hashes of API keys: 50 random characters or more. "
        "The embedded profile makes one in its data folder.",
        secret=True,
        required_when="DATABASE_URL",
    ),
    Variable(
        "DATABASE_URL",
        Kind.URL,
        "PostgreSQL with pgvector, as postgres://user:password@host:port/name. Unset: the embedded profile.",
        secret=True,
    ),
    Variable("REDIS_HOST", Kind.STRING, "Host of the Redis server.", required_when="DATABASE_URL"),
    Variable(
        "REDIS_PORT",
        Kind.INTEGER,
        "Port of the Redis server, usually 6379.",
        minimum=1,
        maximum=65_535,
        required_when="DATABASE_URL",
    ),
    Variable("REDIS_PASSWORD", Kind.STRING, "Password of the Redis server.", secret=True),
    Variable(
        "CELERY_BROKER_URL",
        Kind.URL,
        "Message broker of the background work. Default: the Redis server.",
        secret=True,
    ),
    Variable(
        "DATABASE_POOL_MAX_SIZE",
        Kind.INTEGER,
        "Most database connections of one process.",
        default=16,
        minimum=1,
        maximum=1000,
    ),
    Variable(
        "DATABASE_CONNECT_TIMEOUT_S",
        Kind.INTEGER,
        "Longest wait for a database connection, in seconds.",
        default=5,
        minimum=1,
        maximum=60,
    ),
    Variable(
        "DATABASE_ANSWER_TIMEOUT_S",
        Kind.INTEGER,
        "Longest wait of the web server for the answer to one statement, in seconds; then the request ends with 503. "
        "Commands and background work wait for as long as it takes.",
        default=30,
        minimum=1,
        maximum=3600,
    ),
    Variable(
        "ZENGLOW_WEB_PROCESSES",
        Kind.INTEGER,
        "Web server processes that `make run` starts on one port; 0 for one a processor, at most 4 and one for every "
        "3 GiB of memory. Each takes memory of its own for its models. Spoken conversations take place in the first.",
        default=0,
        minimum=0,
        maximum=64,
    ),
    Variable(
        "ZENGLOW_WORKER_PROCESSES",
        Kind.INTEGER,
        "Background worker processes that `make run` starts.",
        default=1,
        minimum=1,
        maximum=64,
    ),
    Variable(
        "ZENGLOW_S3_BUCKET",
        Kind.STRING,
        "Bucket of an S3-compatible store for artifacts and originals. Empty: files/ in the data folder.",
        default="",
    ),
    Variable(
        "ZENGLOW_S3_ENDPOINT_URL",
        Kind.URL,
        "Address of the store, such as https://minio.example:9000. Empty: Amazon's.",
    ),
    Variable("ZENGLOW_S3_REGION", Kind.STRING, "Region of the bucket.", default=""),
    Variable(
        "ZENGLOW_S3_ACCESS_KEY",
        Kind.STRING,
        "Access key of the store. Empty: what boto3 finds, such as an instance's role.",
        default="",
    ),
    Variable("ZENGLOW_S3_SECRET_KEY", Kind.STRING, "Secret key of the store.", default="", secret=True),
    Variable("ZENGLOW_S3_PREFIX", Kind.STRING, "Folder in the bucket, when it is shared.", default=""),
)


@declare_rule
def _of_the_service_profile(loaded: Environment) -> Iterator[Fault]:
    if loaded["DATABASE_URL"] is None:
        for name in ("REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD"):
            if loaded.is_set(name):
                message = f"{name} means nothing without DATABASE_URL: the embedded profile runs a Redis of its own."
                yield Fault("contradictory", name, message)


@declare_rule
def _of_tls(loaded: Environment) -> Iterator[Fault]:
    name = "ZENGLOW_SECURE_COOKIES"
    if loaded.is_set(name) and not loaded[name] and loaded["ZENGLOW_TLS_CERTIFICATE"] is not None:
        message = f"{name} is off, but on all the same: the server speaks TLS itself (ZENGLOW_TLS_CERTIFICATE)."
        yield Fault("contradictory", name, message)


@declare_rule
def _of_the_bucket(loaded: Environment) -> Iterator[Fault]:
    names = [f"ZENGLOW_S3_{part}" for part in ("ENDPOINT_URL", "REGION", "ACCESS_KEY", "SECRET_KEY", "PREFIX")]
    if not loaded["ZENGLOW_S3_BUCKET"]:
        for name in names:
            if loaded.is_set(name):
                yield Fault("contradictory", name, f"{name} means nothing without ZENGLOW_S3_BUCKET.")
    elif bool(loaded["ZENGLOW_S3_ACCESS_KEY"]) != bool(loaded["ZENGLOW_S3_SECRET_KEY"]):
        lacking = "ZENGLOW_S3_SECRET_KEY" if loaded["ZENGLOW_S3_ACCESS_KEY"] else "ZENGLOW_S3_ACCESS_KEY"
        yield Fault("missing", lacking, f"{lacking} is missing: the other half of the bucket's keys is set.")
