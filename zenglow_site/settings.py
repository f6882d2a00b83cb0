"""Django settings: assembled from the environment registry, never from ``os.environ``."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import django_stubs_ext
from whitenoise.compress import Compressor

from ops.logs import logging_configuration
from zenglow_site.database import BoundedConnection, database_parameters
from zenglow_site.embedded.stack import EmbeddedStack
from zenglow_site.environment import (
    BASE_DIR,
    environment,
    https_only,
    is_embedded,
    keys_enabled,
    limits_enabled,
    single_sign_on,
)
from zenglow_site.object_store import s3_storage
from zenglow_site.secret_key import secret_key

# Django's generic classes take type parameters in annotations only; this lets them be written in class headers too.
django_stubs_ext.monkeypatch()

ENVIRONMENT = environment()

# --- where and who ----
ZENGLOW_STAGE: str = ENVIRONMENT.stage
ZENGLOW_DATA_DIR: Path = ENVIRONMENT["ZENGLOW_DATA_DIR"].resolve()
ZENGLOW_HOST: str = ENVIRONMENT["ZENGLOW_HOST"]
ZENGLOW_PORT: int = ENVIRONMENT["ZENGLOW_PORT"]
# 0 leaves it to the supervisor, which tells its children; a web server that somebody else starts is one.
ZENGLOW_WEB_PROCESSES: int = ENVIRONMENT["ZENGLOW_WEB_PROCESSES"] or 1
ZENGLOW_EMBEDDED = is_embedded(ENVIRONMENT)
ZENGLOW_COLLECTIONS_DIR: Path | None = ENVIRONMENT["ZENGLOW_COLLECTIONS_DIR"]
ENABLE_API_KEYS = keys_enabled(ENVIRONMENT)
RATE_LIMITS = limits_enabled(ENVIRONMENT)
ALLOW_ANONYMOUS: bool = ENVIRONMENT["ZENGLOW_ALLOW_ANONYMOUS"]

DEBUG = False
SECRET_KEY = ENVIRONMENT["ZENGLOW_SECRET_KEY"] or secret_key(ZENGLOW_DATA_DIR)
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]", *ENVIRONMENT["ZENGLOW_ALLOWED_HOSTS"]]
if ZENGLOW_HOST not in {"0.0.0.0", "::"}:  # noqa: S104  (the wildcard is compared, not bound)
    ALLOWED_HOSTS.append(ZENGLOW_HOST)
elif not ENVIRONMENT["ZENGLOW_ALLOWED_HOSTS"]:
    # Reachable under whatever name the operator's network gives it; keys are on there (see `environment`).
    ALLOWED_HOSTS = ["*"]
CSRF_TRUSTED_ORIGINS = list(ENVIRONMENT["ZENGLOW_TRUSTED_ORIGINS"])

# --- what it is made of ----
INSTALLED_APPS = [
    "zenglow_site.apps.SiteAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "allauth",
    "allauth.account",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "django_htmx",
    "django_prometheus",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "ops",
    "models_registry",
    "rag",
    "voice",
    "zenglow_site.apps.SiteConfig",
]

MIDDLEWARE = [
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "ops.middleware.ProxyMiddleware",
    "ops.middleware.RequestIdMiddleware",
    "ops.headers.SecurityHeadersMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "ops.middleware.FaultMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "ops.middleware.PrincipalMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]

ROOT_URLCONF = "zenglow_site.urls"
ASGI_APPLICATION = "zenglow_site.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# --- stores ----
_POOL = {
    # Under ASGI each request may run on a thread of its own, so connections come from a pool, not from the thread.
    "min_size": 1,
    "max_size": ENVIRONMENT["DATABASE_POOL_MAX_SIZE"],
    "timeout": ENVIRONMENT["DATABASE_CONNECT_TIMEOUT_S"],
    "connection_class": BoundedConnection,
}


def _database(parameters: dict[str, Any]) -> dict[str, Any]:
    options = {"connect_timeout": ENVIRONMENT["DATABASE_CONNECT_TIMEOUT_S"], "pool": _POOL}
    return {
        "ENGINE": "zenglow_site.postgresql",
        "CONN_MAX_AGE": 0,
        "CONN_HEALTH_CHECKS": False,  # the engine looks by itself
        **parameters,
        "OPTIONS": options | parameters.get("OPTIONS", {}),
    }


if ZENGLOW_EMBEDDED:
    _stack = EmbeddedStack(ZENGLOW_DATA_DIR)
    DATABASES = {"default": _database(_stack.database_parameters())}
    _redis_urls = [_stack.redis_url(database) for database in range(3)]
    _broker_url = _stack.celery_redis_url(1)
else:
    DATABASES = {"default": _database(database_parameters(ENVIRONMENT["DATABASE_URL"]))}
    _password = ENVIRONMENT["REDIS_PASSWORD"]
    _credentials = f":{quote(_password, safe='')}@" if _password else ""
    _server = f"redis://{_credentials}{ENVIRONMENT['REDIS_HOST']}:{ENVIRONMENT['REDIS_PORT']}"
    _redis_urls = [f"{_server}/{database}" for database in range(3)]
    _broker_url = _redis_urls[1]

# Redis databases: 0 caches, 1 Celery, 2 Channels.
CACHES = {
    "default": {
        "BACKEND": "django_redis.cache.RedisCache",
        "LOCATION": _redis_urls[0],
        "KEY_PREFIX": "zenglow",
        "OPTIONS": {
            "SOCKET_CONNECT_TIMEOUT": 0.5,
            "SOCKET_TIMEOUT": 0.5,
            # Not pickle: whoever can write to Redis could then run code here.
            "SERIALIZER": "django_redis.serializers.msgpack.MSGPackSerializer",
        },
    }
}
CHANNEL_LAYERS = {
    "default": {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [_redis_urls[2]]}}
}
STORAGES = {
    "default": s3_storage(ENVIRONMENT)
    if ENVIRONMENT["ZENGLOW_S3_BUCKET"]
    else {
        "BACKEND": "django.core.files.storage.FileSystemStorage",
        "OPTIONS": {"location": ZENGLOW_DATA_DIR / "files"},
    },
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
# Source maps are large, and only a developer's browser ever asks for one.
WHITENOISE_SKIP_COMPRESS_EXTENSIONS = (*Compressor.SKIP_COMPRESS_EXTENSIONS, "map")
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# --- background work ----
CELERY_BROKER_URL = ENVIRONMENT["CELERY_BROKER_URL"] or _broker_url
CELERY_TASK_IGNORE_RESULT = True
# A task that dies with its worker runs again: every task of ours is safe to run twice.
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 3600}
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_BEAT_SCHEDULE = {
    # Expired messages are dropped, so that no heap of them awaits a worker that was away.
    name: {"task": name, "schedule": every_s, "options": {"expires": every_s}}
    for name, every_s in {
        "rag.resume_index_runs": 30.0,
        "rag.start_due_sources": 30.0,
        "rag.resume_evaluations": 30.0,
        "rag.fold_lexical_totals": 300.0,
        "rag.complete_vectors": 600.0,
        "rag.purge_deleted": 3600.0,
        "rag.purge_query_log": 6 * 3600.0,
        "rag.purge_conversations": 6 * 3600.0,
        "rag.sweep_ann": 24 * 3600.0,
        "ops.maintain_performance_store": 3600.0,
        "ops.roll_up_performance": 60.0,
        "ops.purge": 24 * 3600.0,
        "registry.roll_up_statistics": 300.0,
        **(
            {"registry.refresh": float(ENVIRONMENT["REGISTRY_DISCOVER_INTERVAL_S"])}
            if ENVIRONMENT["REGISTRY_DISCOVER_INTERVAL_S"]
            else {}
        ),
        "registry.resume_space_builds": 30.0,
        "registry.drop_spaces": 600.0,
        **({"rag.deliver_to_milvus": 1.0} if ENVIRONMENT["RAG_RETRIEVAL_MODE"] == "milvus" else {}),
    }.items()
}
CELERY_BEAT_SCHEDULE_FILENAME = str(ZENGLOW_DATA_DIR / "run" / "celerybeat-schedule")

# --- people ----
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}", "OPTIONS": options}
    for name, options in (
        ("UserAttributeSimilarityValidator", {}),
        ("MinimumLengthValidator", {"min_length": 12}),  # OWASP ASVS 2.1.1
        ("CommonPasswordValidator", {}),
        ("NumericPasswordValidator", {}),
    )
]
AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    "allauth.account.auth_backends.AuthenticationBackend",
]
ZENGLOW_OIDC_GROUPS_CLAIM: str = ENVIRONMENT["ZENGLOW_OIDC_GROUPS_CLAIM"]
ZENGLOW_OIDC_ADMIN_GROUP: str = ENVIRONMENT["ZENGLOW_OIDC_ADMIN_GROUP"] or ""
SINGLE_SIGN_ON = ENVIRONMENT["ZENGLOW_OIDC_NAME"] if ENVIRONMENT["ZENGLOW_OIDC_ISSUER"] else ""
"""What the button on the sign-in page says; empty: there is none."""
SINGLE_SIGN_ON_ISSUER: str = ENVIRONMENT["ZENGLOW_OIDC_ISSUER"] or ""
SOCIALACCOUNT_PROVIDERS = single_sign_on(ENVIRONMENT)
SOCIALACCOUNT_ADAPTER = "zenglow_site.single_sign_on.SingleSignOnAdapter"
SOCIALACCOUNT_AUTO_SIGNUP = True
SOCIALACCOUNT_LOGIN_ON_GET = True  # our own view takes POST alone
SOCIALACCOUNT_STORE_TOKENS = False
# An address that a provider claims is no reason to hand over a local account of that address.
SOCIALACCOUNT_EMAIL_AUTHENTICATION = False
ACCOUNT_UNIQUE_EMAIL = False
ACCOUNT_ADAPTER = "zenglow_site.single_sign_on.AccountAdapter"
ACCOUNT_EMAIL_VERIFICATION = "none"
LOGIN_URL = "sign-in"
LOGIN_REDIRECT_URL = "front"
LOGOUT_REDIRECT_URL = "sign-in"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "ops.api.problems.csrf_failure"
_https = https_only(ENVIRONMENT)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = _https
SECURE_REDIRECT_EXEMPT = [r"^health/"]  # probes of an orchestrator speak plain HTTP
SECURE_HSTS_SECONDS = 31_536_000 if _https else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = _https
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if _https else None
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
DATA_UPLOAD_MAX_MEMORY_SIZE = ENVIRONMENT["RAG_REQUEST_MAX_BYTES"]
FILE_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024
DATA_UPLOAD_MAX_NUMBER_FILES = ENVIRONMENT["RAG_BULK_MAX_DOCUMENTS"]

# --- interface ----
LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = True
STATIC_URL = "static/"
STATIC_ROOT = ZENGLOW_DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["ops.api.authentication.PrincipalAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["ops.api.permissions.HasDeclaredScope"],
    "DEFAULT_RENDERER_CLASSES": ["ops.api.rendering.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["ops.api.parsing.StrictJSONParser"],
    "DEFAULT_SCHEMA_CLASS": "ops.api.schema.Schema",
    "EXCEPTION_HANDLER": "ops.api.problems.exception_handler",
    "URL_FORMAT_OVERRIDE": None,  # what an answer is written in is asked for by Accept
    "UNAUTHENTICATED_USER": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "ZenGlow",
    "DESCRIPTION": "Self-hosted retrieval: documents go in, ranked and cited passages come out.",
    "VERSION": "0.1.0",
    "OAS_VERSION": "3.1.1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_NAME_OVERRIDES": {
        "HealthStateEnum": "ops.api.serializers.STATES",
        "DocumentStateEnum": "rag.models.DocumentState",
        "LoadStateEnum": "models_registry.api.serializers.LOAD_STATES",
        "VersionStatusEnum": "models_registry.models.VersionStatus",
        "RunStateEnum": "rag.models.RunState",
        "ItemStateEnum": "rag.models.ItemState",
        "EvaluationStateEnum": "rag.models.EvaluationState",
        "RolloutStateEnum": "models_registry.models.RolloutState",
        "ModelKindEnum": "models_registry.models.ModelKind",
        "FeedbackKindEnum": "rag.models.FeedbackKind",
        "VerdictEnum": "rag.models.Verdict",
        "TurnRoleEnum": "rag.api.answers.ROLES",
        "RoleEnum": "models_registry.models.Role",
        "SourceKindEnum": "rag.models.SourceKind",
        "SourceOutcomeEnum": "rag.models.SourceOutcome",
    },
}

LOGGING = logging_configuration(
    ENVIRONMENT["OPS_LOG_FORMAT"], ENVIRONMENT["OPS_LOG_LEVEL"], ENVIRONMENT["OPS_LOG_FILE"]
)
LOGGING_CONFIG = "logging.config.dictConfig"

# --- the product's own: every other declared variable keeps its name ----
globals().update(
    {
        name: value.value
        for name, value in ENVIRONMENT.values.items()
        if name.startswith(("RAG_", "OPS_", "REGISTRY_", "VOICE_", "SUPABASE_", "MILVUS_", "VAULT_"))
        and name not in globals()
    }
)
