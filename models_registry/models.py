"""What can be deployed, and what is deployed. Rows are append-only versions; `Deployment` says which one is live."""

from __future__ import annotations

import uuid
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q


class ModelKind(models.TextChoices):
    EMBEDDER = "embedder", "embedder"
    LTR = "ltr", "learning to rank"
    LLM = "llm", "language model"
    STT = "stt", "speech to text"
    TTS = "tts", "text to speech"
    VAD = "vad", "voice activity"
    INTERRUPTION = "interruption", "interruption"


class VersionStatus(models.TextChoices):
    """Whether a version can be used. `MISSING` and `FAILED` end by themselves, once it is there or loads again."""

    READY = "ready", "ready"
    MISSING = "missing", "missing"
    FAILED = "failed", "failed"


class Model(models.Model):
    """A family of versions of one thing."""

    name = models.CharField(max_length=128, unique=True)
    kind = models.CharField(max_length=16, choices=ModelKind.choices)
    provider = models.CharField(max_length=64, help_text="What runs it: onnxruntime, lightgbm, linear, ollama, piper.")
    description = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    # Only on rows that `models_registry.versions.overview` read.
    newest_number: int | None
    live: list[dict[str, Any]]

    class Meta:
        ordering = ("kind", "name")

    def __str__(self) -> str:
        return self.name


class Artifact(models.Model):
    """A file addressed by the sha256 of its content: the same content is the same artifact."""

    sha256 = models.CharField(max_length=64, primary_key=True)
    size_bytes = models.BigIntegerField()
    filename = models.CharField(max_length=200, help_text="What the file was called; only for people.")
    stored_at = models.DateTimeField(help_text="When it was last offered for storing.")

    def __str__(self) -> str:
        return f"{self.filename} ({self.sha256[:12]})"


class TrainingRun(models.Model):
    """One training: what versions were made by. Its id is the same in every installation that a version moves to."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    recipe = models.CharField(max_length=100, help_text="The program that trained, such as rag.recipes.ltr.")
    parameters = models.JSONField(default=dict)
    datasets = models.JSONField(default=list, help_text="[{collection, sha256}] of what was learned from.")
    metrics = models.JSONField(default=dict)
    code_revision = models.CharField(max_length=100, blank=True)
    by = models.CharField(max_length=200)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField()

    class Meta:
        ordering = ("-started_at",)

    def __str__(self) -> str:
        return f"{self.recipe} of {self.started_at:%Y-%m-%d %H:%M}"


class ModelVersion(models.Model):
    """One version of a model: its files by role, its parameters, its measured quality and where it came from.

    A version without artifacts is served by somebody else, whom ``source`` names. Only its status and ``seen_at``
    change after it was made.
    """

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    artifacts = models.JSONField(default=dict, help_text="{role: sha256}, such as model, tokenizer, config.")
    parameters = models.JSONField(default=dict)
    metrics = models.JSONField(default=dict)
    provenance = models.JSONField(default=dict, help_text="How it was made: command, data, code revision.")
    training_run = models.ForeignKey(
        TrainingRun, null=True, blank=True, on_delete=models.PROTECT, related_name="versions"
    )
    dataset_sha256 = models.CharField(max_length=64, blank=True, help_text="Identifies what it was trained on.")
    code_revision = models.CharField(max_length=100, blank=True, help_text="Git revision of the code that made it.")
    status = models.CharField(max_length=16, choices=VersionStatus.choices, default=VersionStatus.READY)
    status_detail = models.TextField(blank=True, help_text="Why it is missing or failed.")
    source = models.CharField(max_length=300, blank=True, help_text="Where it was discovered; empty: registered.")
    seen_at = models.DateTimeField(null=True, blank=True, help_text="When it was last found at its source.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("model", "-number")
        constraints = (models.UniqueConstraint(fields=("model", "number"), name="registry_version_number_of_model"),)

    def __str__(self) -> str:
        return f"{self.model.name}@{self.number}"


class FusionWeights(models.Model):
    """One version of the two fusion weights, as entered; the primary key is the version number."""

    version = models.AutoField(primary_key=True)
    ltr = models.FloatField()
    conceptual = models.FloatField()
    author = models.CharField(max_length=200)
    reason = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("-version",)
        verbose_name = verbose_name_plural = "fusion weights"
        constraints = (
            models.CheckConstraint(
                name="registry_weights_are_usable",
                condition=Q(ltr__gte=0)
                & Q(conceptual__gte=0)
                & Q(ltr__lt=float("inf"))
                & Q(conceptual__lt=float("inf"))
                & (Q(ltr__gt=0) | Q(conceptual__gt=0)),
            ),
        )

    def __str__(self) -> str:
        return f"v{self.version}: ltr {self.ltr:g}, conceptual {self.conceptual:g}"

    @property
    def normalized(self) -> tuple[float, float]:
        """``(ltr, conceptual)``, scaled to sum to 1."""
        total = self.ltr + self.conceptual
        return self.ltr / total, self.conceptual / total


class Slot(models.TextChoices):
    """What can be live."""

    WEIGHTS = "weights", "fusion weights"
    LTR = "ltr", "ranker"
    EMBEDDER = "embedder", "embedder"
    LLM = "llm", "language model"
    STT = "stt", "speech to text"
    TTS = "tts", "text to speech"
    VAD = "vad", "voice activity detector"
    INTERRUPTION = "interruption", "interruption model"


RETRIEVAL_SLOTS = (Slot.WEIGHTS, Slot.LTR, Slot.EMBEDDER)
"""What every query needs; the others may stay empty."""


class Role(models.TextChoices):
    STABLE = "stable", "stable"
    CANARY = "canary", "canary"
    SHADOW = "shadow", "shadow"


GLOBAL_SCOPE = "global"


class Deployment(models.Model):
    """Something that is, or was, live. The only way to become live is a row here; history is its ended rows.

    ``scope`` is ``global`` or a collection's slug. At most one row per (scope, slot, role) has no ``ended_at``.
    """

    scope = models.CharField(max_length=64, default=GLOBAL_SCOPE)
    slot = models.CharField(max_length=16, choices=Slot.choices)
    role = models.CharField(max_length=16, choices=Role.choices, default=Role.STABLE)
    model_version = models.ForeignKey(
        ModelVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="deployments"
    )
    weights = models.ForeignKey(
        FusionWeights, null=True, blank=True, on_delete=models.PROTECT, related_name="deployments"
    )
    rollout = models.ForeignKey(
        "Rollout", null=True, blank=True, on_delete=models.PROTECT, related_name="deployments", editable=False
    )
    percent = models.FloatField(null=True, blank=True, help_text="Share of the traffic; empty for a stable version.")
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True, blank=True)
    by = models.CharField(max_length=200)
    reason = models.TextField(blank=True)

    class Meta:
        ordering = ("-started_at", "-id")
        constraints = (
            models.CheckConstraint(
                name="registry_only_rollouts_have_a_share",
                condition=(Q(role=Role.STABLE) & Q(rollout__isnull=True) & Q(percent__isnull=True))
                | (~Q(role=Role.STABLE) & Q(rollout__isnull=False) & Q(percent__gt=0) & Q(percent__lte=100)),
            ),
            models.UniqueConstraint(
                fields=("scope", "slot", "role"),
                condition=Q(ended_at__isnull=True),
                name="registry_one_live_deployment",
            ),
            models.CheckConstraint(
                name="registry_deployment_names_one_thing",
                condition=(Q(slot=Slot.WEIGHTS) & Q(weights__isnull=False) & Q(model_version__isnull=True))
                | (~Q(slot=Slot.WEIGHTS) & Q(weights__isnull=True) & Q(model_version__isnull=False)),
            ),
            models.CheckConstraint(
                name="registry_deployment_ends_after_it_starts",
                condition=Q(ended_at__isnull=True) | Q(ended_at__gte=models.F("started_at")),
            ),
        )

    def __str__(self) -> str:
        return f"{self.scope}/{self.slot}/{self.role}: {self.model_version or self.weights}"


class RolloutMode(models.TextChoices):
    """``SHADOW`` computes and compares the candidate, and serves the stable version."""

    CANARY = "canary", "canary"
    SHADOW = "shadow", "shadow"


class RolloutState(models.TextChoices):
    RUNNING = "running", "running"
    PAUSED = "paused", "paused"
    PROMOTED = "promoted", "promoted"
    ABORTED = "aborted", "aborted"
    ROLLED_BACK = "rolled_back", "rolled back"


OPEN_ROLLOUTS = (RolloutState.RUNNING, RolloutState.PAUSED)


class RolloutKey(models.TextChoices):
    """What decides, by its hash, which variant a query gets: the same key always gets the same one."""

    REQUEST = "request", "request"
    USER = "user", "user"
    API_KEY = "api_key", "API key"
    HEADER = "header", "header"
    COOKIE = "cookie", "cookie"


class Rollout(models.Model):
    """A candidate that gets a share of the traffic, or is computed in its shadow, until it is promoted or given up.

    Each share is a `Deployment` of role canary or shadow, which is what queries follow; this row is the plan.
    ``baseline`` is the stable deployment that the candidate is compared with.
    """

    scope = models.CharField(max_length=64, default=GLOBAL_SCOPE)
    slot = models.CharField(max_length=16, choices=Slot.choices)
    mode = models.CharField(max_length=16, choices=RolloutMode.choices, default=RolloutMode.CANARY)
    state = models.CharField(max_length=16, choices=RolloutState.choices, default=RolloutState.RUNNING)
    model_version = models.ForeignKey(
        ModelVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="rollouts"
    )
    weights = models.ForeignKey(FusionWeights, null=True, blank=True, on_delete=models.PROTECT, related_name="rollouts")
    baseline = models.ForeignKey(Deployment, on_delete=models.PROTECT, related_name="+")
    key = models.CharField(max_length=16, choices=RolloutKey.choices, default=RolloutKey.REQUEST)
    key_name = models.CharField(max_length=100, blank=True, help_text="Of the header or cookie.")
    salt = models.CharField(max_length=32, help_text="Keeps the shares of different rollouts independent.")
    steps = models.JSONField(help_text="Shares in per cent, rising.")
    step = models.PositiveSmallIntegerField(default=0, help_text="Index of the share that it has now.")
    automatic = models.BooleanField(default=False, help_text="Takes its steps, and is promoted, by itself.")
    step_minutes = models.FloatField(default=60, help_text="Least time of an automatic step.")
    guardrails = models.JSONField(help_text="{name: limit}")
    min_samples = models.PositiveIntegerField()
    alpha = models.FloatField(
        help_text="Largest probability that a candidate as good as the stable one is rolled back."
    )
    by = models.CharField(max_length=200)
    reason = models.TextField(blank=True)
    started_at = models.DateTimeField()
    stepped_at = models.DateTimeField(help_text="When it got the share that it has.")
    ended_at = models.DateTimeField(null=True, blank=True)
    outcome = models.TextField(blank=True, help_text="Why it ended, or pauses.")
    readings = models.JSONField(default=list, help_text="What the guardrails read when it ended.")

    class Meta:
        ordering = ("-started_at", "-id")
        constraints = (
            models.UniqueConstraint(
                fields=("scope", "slot"),
                condition=Q(state__in=("running", "paused")),
                name="registry_one_open_rollout",
            ),
            models.CheckConstraint(
                name="registry_rollout_names_one_thing",
                condition=Q(weights__isnull=False) ^ Q(model_version__isnull=False),
            ),
            models.CheckConstraint(
                name="registry_rollout_is_open_or_ended",
                condition=(Q(state__in=("running", "paused")) & Q(ended_at__isnull=True))
                | (~Q(state__in=("running", "paused")) & Q(ended_at__isnull=False)),
            ),
        )

    def __str__(self) -> str:
        return f"rollout {self.pk}: {self.candidate} in {self.scope}/{self.slot}"

    @property
    def candidate(self) -> ModelVersion | FusionWeights:
        thing = self.model_version or self.weights
        if thing is None:
            raise AssertionError("a constraint of the table says that a rollout names one thing")
        return thing

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_ROLLOUTS

    @property
    def percent(self) -> float:
        """The share of the current step."""
        return float(self.steps[self.step])


class BuildState(models.TextChoices):
    """``READY`` waits for its switch; ``SWITCHED`` keeps the space before it for a rollback until it is dropped.

    ``DROPPED``: the vectors that nothing answers with are gone, whichever of the two spaces they belonged to.
    """

    PENDING = "pending", "pending"
    FILLING = "filling", "filling"
    CHECKING = "checking", "checking"
    READY = "ready", "ready"
    SWITCHED = "switched", "switched"
    ROLLED_BACK = "rolled_back", "rolled back"
    DROPPED = "dropped", "dropped"
    CANCELLED = "cancelled", "cancelled"
    FAILED = "failed", "failed"


class SpaceBuild(models.Model):
    """An embedding space that is filled in the background beside the live one, then checked and switched to.

    ``before`` is the embedder that answered until the switch: its vectors are what a rollback needs, and what is
    dropped at the end.
    """

    scope = models.CharField(max_length=64, default=GLOBAL_SCOPE)
    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="space_builds")
    before = models.ForeignKey(ModelVersion, null=True, on_delete=models.PROTECT, related_name="+")
    state = models.CharField(max_length=16, choices=BuildState.choices, default=BuildState.PENDING)
    chunks_per_minute = models.PositiveIntegerField(null=True, blank=True, help_text="Empty: as fast as it goes.")
    switches = models.BooleanField(default=False, help_text="Switches by itself once its check has passed.")
    keep_hours = models.PositiveIntegerField(
        default=0, help_text="How long after the switch the space before it is kept; 0: until somebody drops it."
    )
    drops_at = models.DateTimeField(null=True, blank=True, help_text="When what is left behind is dropped by itself.")
    done = models.PositiveBigIntegerField(default=0)
    total = models.PositiveBigIntegerField(default=0)
    check_result = models.JSONField(
        default=dict, help_text="By collection: what both embedders reach on its judged queries."
    )
    failure = models.TextField(blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    by = models.CharField(max_length=200)
    reason = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    progressed_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                fields=("scope",),
                condition=Q(state__in=("pending", "filling", "checking", "ready")),
                name="registry_one_open_space_build",
            ),
        )

    def __str__(self) -> str:
        return f"space build {self.pk}: {self.version} in {self.scope}"

    @property
    def left_behind(self) -> ModelVersion | None:
        """Whose vectors answer nothing any more because of how the build ended, and can be dropped."""
        if self.state == BuildState.SWITCHED:
            return self.before
        gave_up = (BuildState.ROLLED_BACK, BuildState.CANCELLED, BuildState.FAILED)
        return self.version if self.state in gave_up else None


class ModelStat(models.Model):
    """What a model version did in a quarter of an hour, rolled up from Redis. Rows add up, their buckets included."""

    kind = models.CharField(max_length=16)
    model = models.CharField(max_length=160, help_text="name@number")
    started_at = models.DateTimeField()
    seconds = models.PositiveIntegerField()
    calls = models.PositiveBigIntegerField()
    errors = models.PositiveBigIntegerField()
    items = models.PositiveBigIntegerField()
    tokens = models.PositiveBigIntegerField()
    batches = models.PositiveBigIntegerField(help_text="Calls that told their batch size.")
    batched = models.PositiveBigIntegerField(help_text="The sum of these sizes.")
    buckets = models.JSONField(help_text="Durations: {bucket: count}, as models_registry.sketch counts them.")

    class Meta:
        ordering = ("-started_at", "kind", "model")
        verbose_name = "model statistics"
        verbose_name_plural = "model statistics"
        constraints = (
            models.UniqueConstraint(fields=("started_at", "kind", "model"), name="registry_one_stat_per_slot"),
        )

    def __str__(self) -> str:
        return f"{self.model} {self.started_at:%Y-%m-%d %H:%M}"


class Selection(models.TextChoices):
    """In which order an agent's models are tried."""

    DECLARED = "declared", "as declared"
    OBJECTIVE = "objective", "ready and within the latency objective first"


class Agent(models.Model):
    """Who answers: a persona, the models it speaks by, and how it looks things up."""

    slug = models.SlugField(max_length=64, unique=True)
    name = models.CharField(max_length=100)
    description = models.CharField(max_length=300, blank=True, help_text="One line for those who choose.")
    persona = models.TextField(blank=True, max_length=8000, help_text="What a model is told about who it is.")
    model_order = ArrayField(
        models.CharField(max_length=160),
        help_text="extractive, ollama/NAME or openai/NAME, in the order in which they are tried.",
    )
    selection = models.CharField(max_length=16, choices=Selection.choices, default=Selection.DECLARED)
    latency_objective_ms = models.PositiveIntegerField(
        null=True, blank=True, help_text="For the second selection: what 95 of 100 answers should stay below."
    )
    temperature = models.FloatField(default=0.2, validators=[MinValueValidator(0.0), MaxValueValidator(2.0)])
    max_tokens = models.PositiveIntegerField(default=512, validators=[MinValueValidator(1), MaxValueValidator(8192)])
    context_tokens = models.PositiveIntegerField(
        default=4096,
        validators=[MinValueValidator(512), MaxValueValidator(1_000_000)],
        help_text="Most tokens of a prompt with its answer; a model's own window counts when it is smaller.",
    )
    collections = ArrayField(
        models.CharField(max_length=64),
        default=list,
        blank=True,
        help_text="Slugs it may answer from, the first when none is named; empty: every collection.",
    )
    top_k = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1), MaxValueValidator(50)],
        help_text="Passages to look at; empty: RAG_ANSWER_PASSAGES.",
    )
    abstains = models.BooleanField(
        default=True, help_text="Say that the passages don't answer, rather than ask a model, below the threshold."
    )
    voice = models.CharField(max_length=100, blank=True, help_text="The voice that it speaks with.")
    is_default = models.BooleanField(default=False, help_text="Answers who names no agent.")
    is_enabled = models.BooleanField(default=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("-is_default", "name")
        constraints = (
            models.UniqueConstraint(
                fields=("is_default",), condition=Q(is_default=True), name="registry_one_default_agent"
            ),
        )

    def __str__(self) -> str:
        return self.name
