"""The tables of retrieval: what was put in, what it was cut into, and what was asked of it.

Lexical terms and postings are in `LexicalTerm` and the raw table ``rag_posting`` (see migration 0001): postings are
read and written only by SQL, millions at a time.
"""

from __future__ import annotations

import uuid

from django.contrib.auth.models import User
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.utils import timezone
from pgvector.django import VectorField

SLUG_PATTERN = r"^[a-z0-9](?:[a-z0-9_-]{0,62}[a-z0-9])?$"

validate_slug = RegexValidator(
    SLUG_PATTERN,
    "Use 1 to 64 lower-case letters, digits, hyphens and underscores, beginning and ending with a letter or digit.",
)


class TextConfiguration(models.TextChoices):
    """The PostgreSQL text search configurations that a collection may use (all are in core PostgreSQL)."""

    SIMPLE = "simple"
    ARABIC = "arabic"
    ARMENIAN = "armenian"
    BASQUE = "basque"
    CATALAN = "catalan"
    DANISH = "danish"
    DUTCH = "dutch"
    ENGLISH = "english"
    ESTONIAN = "estonian"
    FINNISH = "finnish"
    FRENCH = "french"
    GERMAN = "german"
    GREEK = "greek"
    HINDI = "hindi"
    HUNGARIAN = "hungarian"
    INDONESIAN = "indonesian"
    IRISH = "irish"
    ITALIAN = "italian"
    LITHUANIAN = "lithuanian"
    NEPALI = "nepali"
    NORWEGIAN = "norwegian"
    PORTUGUESE = "portuguese"
    ROMANIAN = "romanian"
    RUSSIAN = "russian"
    SERBIAN = "serbian"
    SPANISH = "spanish"
    SWEDISH = "swedish"
    TAMIL = "tamil"
    TURKISH = "turkish"
    YIDDISH = "yiddish"


class Collection(models.Model):
    """A set of documents that is searched together, with its settings.

    ``generation`` rises in the transaction of every document change, ``access_epoch`` in that of every access change:
    both are part of every cache key, so that a cached answer is never older than the last commit. ``index_epoch`` rises
    with each change of the vector indexes that are live. Where none of the three has risen, nothing has changed that
    decides which passages are found.
    """

    slug = models.CharField(max_length=64, unique=True, validators=[validate_slug])
    title = models.CharField(max_length=200, blank=True)
    description = models.TextField(blank=True)
    text_configuration = models.CharField(
        max_length=32, choices=TextConfiguration.choices, default=TextConfiguration.ENGLISH
    )
    split_identifiers = models.BooleanField(
        default=False, help_text="Also index the parts of camelCase and snake_case names: for code."
    )
    chunk_tokens = models.PositiveIntegerField(
        default=220,
        validators=[MinValueValidator(32), MaxValueValidator(8192)],
        help_text="Longest chunk, in the embedder's tokens. Checked against the embedder's own limit.",
    )
    chunk_overlap_tokens = models.PositiveIntegerField(default=32, validators=[MaxValueValidator(1024)])
    default_access_groups = ArrayField(
        models.CharField(max_length=150),
        default=list,
        blank=True,
        help_text="Groups that may read documents without an access list of their own; empty: everyone.",
    )
    generation = models.BigIntegerField(default=0, editable=False)
    access_epoch = models.BigIntegerField(default=0, editable=False)
    index_epoch = models.BigIntegerField(default=0, db_default=0, editable=False)
    remembers_judgements = models.BooleanField(
        default=False, editable=False, help_text="Rank by what was judged relevant to similar queries, too."
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("slug",)
        constraints = (
            models.CheckConstraint(
                name="rag_collection_overlap_below_chunk",
                condition=models.Q(chunk_overlap_tokens__lt=models.F("chunk_tokens")),
            ),
        )

    def __str__(self) -> str:
        return self.slug

    @property
    def is_being_indexed(self) -> bool:
        """Whether documents are on their way into it."""
        return self.index_runs.filter(state__in=(RunState.PENDING, RunState.RUNNING)).exists()


class DocumentState(models.TextChoices):
    INDEXED = "indexed"
    FAILED = "failed"
    DELETED = "deleted", "deleted (can be restored)"


class Document(models.Model):
    """One document as its owner knows it. ``document_id`` is the caller's own id, unique in its collection.

    ``text`` is the extracted text that the chunks' character ranges refer to. ``content_hash`` covers everything that
    decides what is indexed, so that an unchanged document costs nothing. A deleted document keeps its row and text
    (but no chunk) until it is purged, so that the deletion can be undone.
    """

    collection = models.ForeignKey(Collection, on_delete=models.CASCADE, related_name="documents")
    document_id = models.CharField(max_length=512)
    title = models.TextField(blank=True)
    source = models.TextField(blank=True, help_text="Where it came from: a path, a file name, an address.")
    external_url = models.TextField(null=True, blank=True)
    media_type = models.CharField(max_length=128, default="text/plain")
    metadata = models.JSONField(default=dict, blank=True)
    access_groups = ArrayField(
        models.CharField(max_length=150),
        default=list,
        blank=True,
        help_text="Groups that may read it; empty: the collection's default.",
    )
    text = models.TextField(blank=True)
    original = models.CharField(
        max_length=64,
        blank=True,
        help_text="sha256 of the stored original file; empty for plain text, which is kept in the row.",
    )
    source_root = models.TextField(
        blank=True, help_text="The indexed folder it came from: documents that vanish from there are removed."
    )
    offer = models.JSONField(
        default=dict, editable=False, help_text="What its owner said of it, as offered: title, metadata, access groups."
    )
    revision = models.BigIntegerField(
        default=0, editable=False, help_text="Rises with every accepted change: an older one never wins."
    )
    size_bytes = models.BigIntegerField(default=0)
    content_hash = models.CharField(max_length=64, blank=True)
    state = models.CharField(max_length=16, choices=DocumentState.choices, default=DocumentState.INDEXED)
    failure = models.TextField(blank=True)
    chunk_count = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)
    indexed_at = models.DateTimeField(null=True, blank=True)
    deleted_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("collection", "document_id"), name="rag_document_id_in_collection"),
        )
        indexes = (
            models.Index(fields=("collection", "state", "-updated_at"), name="rag_document_list"),
            GinIndex(fields=("metadata",), opclasses=("jsonb_path_ops",), name="rag_document_metadata"),
            GinIndex(fields=("access_groups",), name="rag_document_access_groups"),
            # Whether a collection withholds anything from anybody is asked by every search.
            models.Index(
                fields=("collection",), condition=~models.Q(access_groups=[]), name="rag_document_with_access_list"
            ),
        )

    def __str__(self) -> str:
        return self.title or self.document_id


class Chunk(models.Model):
    """A passage: ``document.text[start:end]``.

    ``tokens`` are little-endian int32, one a position of the text search vector of title, headings and text: the
    collection's term id, or 0 where a stop word stood. The first ``title_length`` of them come from the title and
    headings. ``token_count`` is the number of non-zero entries: the document length of BM25.
    """

    id = models.BigAutoField(primary_key=True)
    collection = models.ForeignKey(Collection, on_delete=models.CASCADE, related_name="chunks")
    document = models.ForeignKey(Document, on_delete=models.CASCADE, related_name="chunks")
    ordinal = models.PositiveIntegerField()
    text = models.TextField()
    heading_path = ArrayField(models.TextField(), default=list, blank=True)
    page = models.PositiveIntegerField(null=True, blank=True)
    start = models.PositiveIntegerField()
    end = models.PositiveIntegerField()
    chunking_version = models.PositiveSmallIntegerField()
    tokens = models.BinaryField(default=b"", editable=False)
    title_length = models.PositiveSmallIntegerField(default=0)
    token_count = models.PositiveIntegerField(default=0)

    class Meta:
        ordering = ("document_id", "ordinal")
        constraints = (models.UniqueConstraint(fields=("document", "ordinal"), name="rag_chunk_ordinal_in_document"),)

    def __str__(self) -> str:
        return f"{self.document_id}#{self.ordinal}"


class EmbeddingSpace(models.Model):
    """What makes two vectors comparable: the model file, its pooling, prompts and normalisation."""

    slug = models.CharField(max_length=128, unique=True)
    model_name = models.CharField(max_length=200)
    artifact_sha256 = models.CharField(max_length=64)
    dimension = models.PositiveIntegerField()
    max_tokens = models.PositiveIntegerField()
    pooling = models.CharField(max_length=16, default="mean")
    normalize = models.BooleanField(default=True)
    query_prompt = models.TextField(blank=True)
    document_prompt = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.slug


class DocEmbedding(models.Model):
    """One chunk's vector in one space. The collection is repeated here, so that a search reads one table."""

    id = models.BigAutoField(primary_key=True)
    chunk = models.ForeignKey(Chunk, on_delete=models.CASCADE, related_name="embeddings")
    space = models.ForeignKey(EmbeddingSpace, on_delete=models.CASCADE, related_name="embeddings")
    collection = models.ForeignKey(Collection, on_delete=models.CASCADE, related_name="embeddings", db_index=False)
    embedding = VectorField()

    class Meta:
        db_table = "doc_embeddings"
        constraints = (models.UniqueConstraint(fields=("chunk", "space"), name="doc_embeddings_chunk_space"),)
        indexes = (models.Index(fields=("collection", "space"), name="doc_embeddings_search"),)

    def __str__(self) -> str:
        return f"chunk {self.chunk_id} in space {self.space_id}"


class AnnStrategy(models.TextChoices):
    EXACT = "exact", "exact"
    HNSW = "hnsw", "HNSW"
    IVFFLAT = "ivfflat", "IVFFlat"


class AnnPrecision(models.TextChoices):
    """What the index keeps of a vector. Whatever it is, what is found is ordered by the full vectors."""

    FULL = "full", "full (float32)"
    HALF = "half", "half (float16)"
    BINARY = "binary", "binary (one bit), re-ranked"


class IterativeScan(models.TextChoices):
    """Whether an index scan goes on when a filter let too little through."""

    OFF = "off", "off"
    STRICT = "strict_order", "strict order"
    RELAXED = "relaxed_order", "relaxed order"


class AnnState(models.TextChoices):
    BUILDING = "building"
    READY = "ready"
    LIVE = "live"
    RETIRED = "retired"
    FAILED = "failed"


class AnnConfig(models.Model):
    """How a collection's vectors of one space are searched, with what was measured of it.

    A row never changes what it describes: other settings are another row. At most one row per collection and space is
    live; where none is, the search is exact. Rows with the same index settings may share an index. ``index_name`` is
    empty where there is no index (exact, or dropped). The services in `rag.ann` are the only writers.
    """

    collection = models.ForeignKey(Collection, on_delete=models.CASCADE, related_name="ann_configs")
    space = models.ForeignKey(EmbeddingSpace, on_delete=models.CASCADE, related_name="ann_configs")
    strategy = models.CharField(max_length=16, choices=AnnStrategy.choices, default=AnnStrategy.HNSW)
    precision = models.CharField(max_length=16, choices=AnnPrecision.choices, default=AnnPrecision.FULL)
    m = models.PositiveSmallIntegerField(
        default=16,
        validators=[MinValueValidator(2), MaxValueValidator(100)],
        help_text="HNSW: edges of a node. More: better recall, a larger index, slower to build.",
    )
    ef_construction = models.PositiveSmallIntegerField(
        default=64,
        validators=[MinValueValidator(4), MaxValueValidator(1000)],
        help_text="HNSW: candidates considered for each edge; at least twice m.",
    )
    lists = models.PositiveIntegerField(
        default=0,
        validators=[MaxValueValidator(32_768)],
        help_text="IVFFlat: cells; 0: the square root of the number of vectors.",
    )
    ef_search = models.PositiveSmallIntegerField(
        default=200,
        validators=[MinValueValidator(1), MaxValueValidator(1000)],
        help_text="HNSW: nodes kept while searching; never fewer than are asked for.",
    )
    probes = models.PositiveIntegerField(
        default=20,
        validators=[MinValueValidator(1), MaxValueValidator(32_768)],
        help_text="IVFFlat: cells looked into.",
    )
    iterative_scan = models.CharField(max_length=16, choices=IterativeScan.choices, default=IterativeScan.RELAXED)
    rerank = models.PositiveSmallIntegerField(
        default=400,
        validators=[MinValueValidator(10), MaxValueValidator(1000)],
        help_text="Binary: how many of the nearest by bits are ordered by their full vectors.",
    )
    state = models.CharField(max_length=16, choices=AnnState.choices, default=AnnState.BUILDING)
    failure = models.TextField(blank=True)
    index_name = models.CharField(max_length=63, blank=True, editable=False)
    marker = models.BigIntegerField(
        default=0, editable=False, help_text="Number of the row that built the index: it is part of its predicate."
    )
    vectors = models.BigIntegerField(default=0, editable=False, help_text="Vectors when the index was built.")
    build_ms = models.FloatField(null=True, editable=False)
    size_bytes = models.BigIntegerField(null=True, editable=False)
    recall_at_10 = models.FloatField(null=True, editable=False, help_text="Against exact search, over real queries.")
    recall_queries = models.PositiveIntegerField(default=0, editable=False)
    recall_source = models.CharField(max_length=64, blank=True, editable=False)
    search_p50_ms = models.FloatField(null=True, editable=False)
    search_p95_ms = models.FloatField(null=True, editable=False)
    by = models.CharField(max_length=200, editable=False)
    reason = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    built_at = models.DateTimeField(null=True, editable=False)
    measured_at = models.DateTimeField(null=True, editable=False)
    activated_at = models.DateTimeField(null=True, editable=False)
    retired_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ("-id",)
        verbose_name = "vector index configuration"
        constraints = (
            models.UniqueConstraint(
                fields=("collection", "space"), condition=models.Q(state="live"), name="rag_one_live_ann_config"
            ),
        )

    def __str__(self) -> str:
        return f"#{self.pk} {self.strategy} of {self.collection}"


class MilvusOutbox(models.Model):
    """A document whose copy in Milvus is behind; see `rag.milvus.outbox`.

    There is no foreign key: the row of a deleted document, or of the last one of a deleted collection, outlives it.
    """

    id = models.BigAutoField(primary_key=True)
    collection_id = models.BigIntegerField()
    document_row_id = models.BigIntegerField()
    noted_at = models.DateTimeField()

    class Meta:
        indexes = (models.Index(fields=("collection_id", "id"), name="rag_milvus_outbox_order"),)

    def __str__(self) -> str:
        return f"document {self.document_row_id} of collection {self.collection_id}"


class LexicalTerm(models.Model):
    """A stem of a collection. Terms are only ever added: an unused one costs nothing."""

    id = models.AutoField(primary_key=True)
    collection = models.ForeignKey(Collection, on_delete=models.CASCADE, related_name="terms", db_index=False)
    term = models.TextField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=("collection", "term"), name="rag_term_in_collection"),)

    def __str__(self) -> str:
        return self.term


class LexicalTotals(models.Model):
    """A change of a collection's chunk and token counts.

    BM25's N and average length are the sums over a collection's rows. Writers only insert, so that they never wait for
    each other; a periodic task folds old rows into one.
    """

    id = models.BigAutoField(primary_key=True)
    collection = models.ForeignKey(Collection, on_delete=models.CASCADE, related_name="lexical_totals")
    chunks = models.IntegerField()
    tokens = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.collection_id}: {self.chunks:+} chunks, {self.tokens:+} tokens"


class RunState(models.TextChoices):
    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class IndexRun(models.Model):
    """One run of indexing: what was offered and what became of it. The counts rise as items finish."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    collection = models.ForeignKey(Collection, on_delete=models.CASCADE, related_name="index_runs")
    origin = models.CharField(max_length=200, help_text="What started it: command, api, upload, page.")
    started_by = models.CharField(max_length=200)
    state = models.CharField(max_length=16, choices=RunState.choices, default=RunState.PENDING)
    total = models.PositiveIntegerField(default=0)
    added = models.PositiveIntegerField(default=0)
    changed = models.PositiveIntegerField(default=0)
    removed = models.PositiveIntegerField(default=0)
    unchanged = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    progressed_at = models.DateTimeField(default=timezone.now, editable=False)
    finished_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-created_at",)

    def __str__(self) -> str:
        return str(self.id)

    @property
    def done(self) -> int:
        """Items that are finished, whatever became of them."""
        return self.added + self.changed + self.removed + self.unchanged + self.failed


class ItemState(models.TextChoices):
    """``PENDING`` is the only state that a worker takes an item from."""

    PENDING = "pending"
    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"
    UNCHANGED = "unchanged"
    FAILED = "failed"


class IndexItem(models.Model):
    """One document of a run. Exactly one of ``text``, ``original`` and ``remove`` says what to do with it.

    The id is the revision that it gives its document: an item that was accepted later wins, whenever it is worked on.
    ``attempts`` counts how often a worker has begun with it. ``text`` is emptied when the item is done.
    """

    id = models.BigAutoField(primary_key=True)
    run = models.ForeignKey(IndexRun, on_delete=models.CASCADE, related_name="items")
    document_id = models.CharField(max_length=512)
    title = models.TextField(blank=True)
    source = models.TextField(blank=True)
    external_url = models.TextField(null=True, blank=True)
    media_type = models.CharField(max_length=128, blank=True)
    metadata = models.JSONField(default=dict)
    access_groups = ArrayField(models.CharField(max_length=150), default=list)
    text = models.TextField(null=True, blank=True)
    original = models.CharField(max_length=64, blank=True)
    source_root = models.TextField(blank=True)
    remove = models.BooleanField(default=False)
    attempts = models.PositiveSmallIntegerField(default=0)
    state = models.CharField(max_length=16, choices=ItemState.choices, default=ItemState.PENDING)
    reason = models.TextField(blank=True)

    class Meta:
        indexes = (models.Index(fields=("run", "state", "id"), name="rag_item_of_run"),)

    def __str__(self) -> str:
        return self.document_id


class SourceKind(models.TextChoices):
    FOLDER = "folder", "folder of this machine"
    WEB = "web", "web pages"
    GIT = "git", "Git repository"
    S3 = "s3", "S3 bucket"


class SourceOutcome(models.TextChoices):
    """How the last look at a source ended. ``PARTIAL``: some of it could not be read, and stays as it was."""

    NEVER = "never", "not looked at yet"
    OK = "ok", "all is well"
    PARTIAL = "partial", "in part"
    FAILED = "failed"


class Source(models.Model):
    """A place that documents are fetched from again and again. The services in `rag.sources` are the only writers.

    ``running_until`` is in the future while somebody looks: who dies is overtaken then. ``preview`` is what the last
    dry run found.
    """

    name = models.CharField(max_length=64, unique=True, validators=[validate_slug])
    collection = models.ForeignKey(Collection, on_delete=models.CASCADE, related_name="sources")
    kind = models.CharField(max_length=16, choices=SourceKind.choices)
    location = models.TextField(help_text="A folder's path, an address, or s3://bucket/prefix.")
    options = models.JSONField(default=dict, blank=True, help_text="What the kind of source takes; see the guide.")
    secret = models.CharField(
        max_length=64, blank=True, help_text="Name of a file in RAG_SOURCE_SECRETS_DIR with what opens the place."
    )
    access_groups = ArrayField(
        models.CharField(max_length=150),
        default=list,
        blank=True,
        help_text="Groups that may read its documents; empty: the collection's default.",
    )
    metadata = models.JSONField(default=dict, blank=True, help_text="Given to each of its documents.")
    interval_minutes = models.PositiveIntegerField(
        default=60, validators=[MaxValueValidator(525_600)], help_text="How often it is looked at; 0: only when asked."
    )
    is_paused = models.BooleanField(default=False)
    outcome = models.CharField(
        max_length=16, choices=SourceOutcome.choices, default=SourceOutcome.NEVER, editable=False
    )
    error = models.TextField(blank=True, editable=False, help_text="Why the last look failed or is incomplete.")
    failures_in_a_row = models.PositiveIntegerField(default=0, editable=False)
    tally = models.JSONField(default=dict, editable=False, help_text="What the last look came to.")
    preview = models.JSONField(null=True, editable=False)
    last_run = models.ForeignKey(IndexRun, on_delete=models.SET_NULL, null=True, editable=False, related_name="+")
    started_at = models.DateTimeField(null=True, editable=False)
    finished_at = models.DateTimeField(null=True, editable=False)
    next_run_at = models.DateTimeField(null=True, editable=False)
    running_until = models.DateTimeField(null=True, editable=False)
    created_by = models.CharField(max_length=200, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("name",)
        indexes = (models.Index(fields=("next_run_at",), name="rag_source_due"),)

    def __str__(self) -> str:
        return self.name

    @property
    def root(self) -> str:
        """What `Document.source_root` says of its documents."""
        return f"source:{self.pk}"

    @property
    def is_running(self) -> bool:
        return self.running_until is not None and self.running_until > timezone.now()

    def in_words(self) -> str:
        """How it stands when nobody looks at it: all is well only when all that was read could be indexed, too."""
        failed = self.collection.documents.filter(source_root=self.root, state=DocumentState.FAILED).count()
        if failed and self.outcome == SourceOutcome.OK:
            return f"{failed} of its documents could not be indexed"
        return str(SourceOutcome(self.outcome).label)


class SourceItem(models.Model):
    """What was found at a path of a source: what tells whether it has changed, and why it could not be read."""

    id = models.BigAutoField(primary_key=True)
    source = models.ForeignKey(Source, on_delete=models.CASCADE, related_name="items")
    path = models.TextField()
    revision = models.TextField(blank=True)
    links = models.JSONField(default=list)
    fault = models.TextField(blank=True)
    seen_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("source", "path"), name="rag_source_item_path"),)
        indexes = (models.Index(fields=("source",), condition=~models.Q(fault=""), name="rag_source_item_with_fault"),)

    def __str__(self) -> str:
        return self.path


class IdempotentRequest(models.Model):
    """A request that carried an ``Idempotency-Key``, with its answer: the same request again gets the same answer.

    ``status`` is 0 while the first request is being answered.
    """

    id = models.BigAutoField(primary_key=True)
    asked_by = models.CharField(max_length=220)
    key = models.CharField(max_length=255)
    fingerprint = models.CharField(max_length=64)
    status = models.PositiveSmallIntegerField(default=0)
    body = models.JSONField(default=dict)
    headers = models.JSONField(default=dict)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("asked_by", "key"), name="rag_idempotency_key_of_principal"),)
        indexes = (models.Index(fields=("created_at",), name="rag_idempotency_age"),)

    def __str__(self) -> str:
        return f"{self.asked_by} {self.key}"


class QueryLog(models.Model):
    """What was asked and how it was answered. ``query`` is scrubbed, clear or empty, as ``RAG_QUERY_LOG`` says."""

    request_id = models.UUIDField(primary_key=True)
    occurred_at = models.DateTimeField(db_index=True)
    collection = models.CharField(max_length=64)
    query = models.TextField(blank=True)
    query_hmac = models.CharField(max_length=64)
    asked_by = models.CharField(max_length=200, help_text="user:<id>, key:<prefix> or anonymous")
    user = models.ForeignKey(User, null=True, blank=True, on_delete=models.CASCADE)
    snapshot = models.JSONField(help_text="Everything that decided the answer: generation, models, weights.")
    result_count = models.PositiveIntegerField()
    degraded = ArrayField(models.CharField(max_length=64), default=list)

    class Meta:
        ordering = ("-occurred_at",)

    def __str__(self) -> str:
        return str(self.request_id)


class Impression(models.Model):
    """One passage that was shown, at its position (0 first)."""

    id = models.BigAutoField(primary_key=True)
    query_log = models.ForeignKey(QueryLog, on_delete=models.CASCADE, related_name="impressions")
    position = models.PositiveIntegerField()
    chunk_id = models.BigIntegerField()
    document_id = models.CharField(max_length=512)
    content_hash = models.CharField(max_length=64)
    start = models.PositiveIntegerField()
    end = models.PositiveIntegerField()
    fused_score = models.FloatField()

    class Meta:
        ordering = ("position",)

    def __str__(self) -> str:
        return f"{self.query_log_id} #{self.position}"


class FeedbackKind(models.TextChoices):
    JUDGEMENT = "judgement", "judgement"
    CLICK = "click", "click"
    VOTE = "vote", "vote"


class Feedback(models.Model):
    """What somebody made of a passage that they were shown. The same again changes it, and counts once.

    It repeats what it is about, so that it outlives the query log. ``weight`` is the inverse of the propensity of the
    position: how many looks at the first place one look at this one stands for.
    """

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=16, choices=FeedbackKind.choices)
    value = models.SmallIntegerField(help_text="A grade from 0 to 3; a vote of 1 or -1; 1 for a click.")
    request_id = models.UUIDField()
    collection = models.CharField(max_length=64)
    query = models.TextField(blank=True, help_text="As the query log keeps it.")
    query_hmac = models.CharField(max_length=64)
    chunk_id = models.BigIntegerField()
    document_id = models.CharField(max_length=512)
    content_hash = models.CharField(max_length=64)
    start = models.PositiveIntegerField()
    end = models.PositiveIntegerField()
    position = models.PositiveIntegerField(help_text="Where it was shown, 0 first.")
    weight = models.FloatField()
    variant = models.CharField(max_length=16)
    by = models.CharField(max_length=200)
    user = models.ForeignKey(User, null=True, blank=True, on_delete=models.CASCADE)
    created_at = models.DateTimeField(auto_now_add=True)
    changed_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = "feedback"
        constraints = (
            models.UniqueConstraint(fields=("request_id", "chunk_id", "kind", "by"), name="rag_one_feedback_of_a_kind"),
        )
        indexes = (models.Index(fields=("collection", "query_hmac"), name="rag_feedback_of_query"),)

    def __str__(self) -> str:
        return f"{self.kind} {self.value:+d} on {self.document_id}"


class AnnPeriod(models.Model):
    """When a vector index configuration was live, by whom and why: kept when its collection or row is long gone."""

    number = models.BigIntegerField(help_text="Of the configuration; no key, because the row may be gone.")
    collection = models.CharField(max_length=64, help_text="Slug.")
    what = models.CharField(max_length=300, help_text="The configuration in words.")
    facts = models.JSONField(default=dict)
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    by = models.CharField(max_length=200)
    reason = models.TextField(blank=True)

    class Meta:
        ordering = ("-started_at", "-id")
        indexes = (models.Index(fields=("started_at",), name="rag_ann_period_started"),)

    def __str__(self) -> str:
        return f"{self.what}, live from {self.started_at:%Y-%m-%d %H:%M}"


class JudgedQuery(models.Model):
    """A query of a test collection, with its judgements."""

    collection = models.ForeignKey(Collection, on_delete=models.CASCADE, related_name="judged_queries")
    query_id = models.CharField(max_length=200)
    text = models.TextField()

    class Meta:
        ordering = ("collection", "query_id")
        constraints = (
            models.UniqueConstraint(fields=("collection", "query_id"), name="rag_judged_query_in_collection"),
        )

    def __str__(self) -> str:
        return f"{self.query_id}: {self.text[:60]}"


class JudgedQueryVector(models.Model):
    """A judged query's vector in one space, for collections that remember their judgements."""

    id = models.BigAutoField(primary_key=True)
    judged_query = models.ForeignKey(JudgedQuery, on_delete=models.CASCADE, related_name="vectors")
    space = models.ForeignKey(EmbeddingSpace, on_delete=models.CASCADE, related_name="judged_query_vectors")
    embedding = VectorField()

    class Meta:
        constraints = (models.UniqueConstraint(fields=("judged_query", "space"), name="rag_judged_query_vector"),)

    def __str__(self) -> str:
        return f"judged query {self.judged_query_id} in space {self.space_id}"


class Judgement(models.Model):
    """How relevant a document is to a query. It names the document by its id, so that it outlives re-chunking."""

    query = models.ForeignKey(JudgedQuery, on_delete=models.CASCADE, related_name="judgements")
    document_id = models.CharField(max_length=512)
    grade = models.IntegerField()
    weight = models.FloatField(
        default=1.0, help_text="How sure the grade is, at most 1: clicks weigh by how many looked at their position."
    )

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=("query", "document_id"), name="rag_judgement_of_document"),
            models.CheckConstraint(name="rag_judgement_weight", condition=models.Q(weight__gt=0, weight__lte=1)),
        )

    def __str__(self) -> str:
        return f"{self.query_id} {self.document_id}: {self.grade}"


class EvaluationState(models.TextChoices):
    PENDING = "pending"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"


class EvaluationRun(models.Model):
    """One measurement of ranking quality, with what it was measured on.

    What was measured is empty until the run is finished. ``total`` is the number of judged queries, ``done`` how many
    of them have been ranked.
    """

    created_at = models.DateTimeField(auto_now_add=True)
    collection = models.CharField(max_length=64)
    label = models.CharField(max_length=200, blank=True, help_text="What the run was for, in its maker's words.")
    started_by = models.CharField(max_length=200, blank=True)
    state = models.CharField(max_length=16, choices=EvaluationState.choices, default=EvaluationState.FINISHED)
    failure = models.TextField(blank=True)
    total = models.PositiveIntegerField(default=0)
    done = models.PositiveIntegerField(default=0)
    attempts = models.PositiveSmallIntegerField(default=0, editable=False)
    started_at = models.DateTimeField(null=True, blank=True)
    progressed_at = models.DateTimeField(default=timezone.now, editable=False)
    finished_at = models.DateTimeField(null=True, blank=True)
    dataset_sha256 = models.CharField(max_length=64)
    snapshot = models.JSONField(default=dict, help_text="Everything that decided the rankings: models, weights.")
    revision = models.CharField(max_length=100, blank=True, help_text="The code's git revision, where it is known.")
    timings = models.JSONField(default=dict, help_text='{stage: {"p50_ms": …, "p95_ms": …}} of one query, uncached')
    metrics = models.JSONField(default=dict, help_text="{row: {metric: mean}}")
    per_query = models.JSONField(default=dict, help_text="{row: {query id: {metric: value}}}")
    in_sample = models.BooleanField(default=False, help_text="The ranker was trained on this collection's judgements.")

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"evaluation {self.pk} of {self.collection}"

    @property
    def is_live(self) -> bool:
        return self.state in {EvaluationState.PENDING, EvaluationState.RUNNING}

    @property
    def ranker(self) -> str:
        """``name@version``; empty until it is known."""
        return str(self.snapshot.get("ranker_label", ""))

    @property
    def embedder(self) -> str:
        """The embedding space, named after its model; empty until it is known."""
        return str(self.snapshot.get("space", {}).get("label", ""))

    @property
    def duration_s(self) -> float | None:
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()


class Conversation(models.Model):
    """What somebody asked and was answered, one after the other. ``owner`` is a `Principal.log_name`.

    ``share_id`` is the address under which others may read it, where its owner shares it; each reader sees only the
    answers whose sources that reader may read.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    owner = models.CharField(max_length=200)
    user = models.ForeignKey(User, null=True, blank=True, on_delete=models.CASCADE, related_name="conversations")
    title = models.CharField(max_length=200, blank=True)
    collection = models.CharField(max_length=64)
    share_id = models.UUIDField(null=True, blank=True, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("-updated_at",)
        indexes = (
            models.Index(fields=("owner", "-updated_at"), name="rag_conversation_of_owner"),
            models.Index(fields=("updated_at",), name="rag_conversation_age"),
        )

    def __str__(self) -> str:
        return f"conversation {self.id}"  # its title is what its owner asked


class Pane(models.TextChoices):
    """Which of the two agents beside each other an answer is of."""

    LEFT = "left"
    RIGHT = "right"


class MessageState(models.TextChoices):
    WRITING = "writing"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


class Message(models.Model):
    """A question, or an agent's answer to it. The messages of one turn share its number.

    ``answer`` is the whole `rag.answers.contracts.Answer` as JSON; ``text`` repeats its text, to be searched.
    """

    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="messages")
    turn = models.PositiveIntegerField()
    pane = models.CharField(max_length=8, choices=Pane.choices, blank=True, help_text="Empty for a question.")
    text = models.TextField(blank=True)
    agent = models.CharField(max_length=64, blank=True)
    model = models.CharField(max_length=160, blank=True)
    request_id = models.UUIDField(null=True, blank=True, unique=True)
    state = models.CharField(max_length=16, choices=MessageState.choices, default=MessageState.DONE)
    failure = models.TextField(blank=True)
    answer = models.JSONField(null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("conversation", "turn", "pane")
        constraints = (
            models.UniqueConstraint(fields=("conversation", "turn", "pane"), name="rag_message_of_turn_and_pane"),
        )

    def __str__(self) -> str:
        return f"{self.conversation_id}#{self.turn} {self.pane}"


class Verdict(models.TextChoices):
    """Which of two answers was better."""

    LEFT = "left"
    RIGHT = "right"
    TIE = "tie"
    BOTH_BAD = "both_bad", "both bad"


class Preference(models.Model):
    """Somebody's verdict on the two answers of one turn. It keeps what was compared, for whoever trains on it."""

    conversation = models.ForeignKey(Conversation, on_delete=models.CASCADE, related_name="preferences")
    turn = models.PositiveIntegerField()
    by = models.CharField(max_length=200)
    verdict = models.CharField(max_length=16, choices=Verdict.choices)
    question = models.TextField()
    left = models.JSONField(help_text="{agent, model, text} of the left answer.")
    right = models.JSONField(help_text="The same of the right one.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("conversation", "turn", "by"), name="rag_one_verdict_of_turn"),)

    def __str__(self) -> str:
        return f"{self.conversation_id}#{self.turn}: {self.verdict}"
