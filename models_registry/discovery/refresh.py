"""Bringing the registry up to date with what the sources hold. It adds and marks; it never deletes, and nothing goes
live by it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from models_registry import artifacts, processes, versions
from models_registry.discovery.folders import Folder
from models_registry.discovery.servers import Ollama, OpenAi
from models_registry.discovery.types import Found, Running, Source, SourceError
from models_registry.loading import LoadReport, LoadState
from models_registry.locks import session_lock
from models_registry.models import ModelVersion, VersionStatus
from ops import audit
from ops.contracts.audit import declare_action
from ops.contracts.principal import Principal, Scope
from ops.contracts.problems import Conflict, Forbidden

logger = logging.getLogger(__name__)

REFRESH = declare_action("registry.refresh", "Models were looked for; those that came or went are in the details.")


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at one source found. Labels are ``name@number``; ``error`` says why it could not be looked at."""

    source: str
    found: int = 0
    added: Sequence[str] = ()
    missing: Sequence[str] = ()
    returned: Sequence[str] = ()
    error: str = ""

    @property
    def is_change(self) -> bool:
        return bool(self.added or self.missing or self.returned)


def sources() -> list[Source]:
    """Those that the settings name, in their order."""
    return [
        *(Folder(Path(path).expanduser().resolve()) for path in settings.REGISTRY_DISCOVER_DIRS),
        *(Ollama(url.rstrip("/")) for url in settings.REGISTRY_OLLAMA_URLS),
        *(OpenAi(url.rstrip("/"), settings.REGISTRY_OPENAI_API_KEY) for url in settings.REGISTRY_OPENAI_URLS),
    ]


def refresh(by: Principal) -> list[Looked]:
    """Look at every source now. One that can't be looked at is left as it was. Raises `Forbidden`."""
    if not by.has_scope(Scope.REGISTRY_WRITE) or by.collections is not None:
        raise Forbidden(f"'{by.name}' may not refresh the registry: it takes {Scope.REGISTRY_WRITE}.")
    with session_lock("registry:refresh", on_wait=lambda: None):
        configured = sources()
        results = [_look(source) for source in configured]
        results += _forgotten({source.label for source in configured})
    changes = [one for one in results if one.is_change]
    if changes:
        audit.record(
            by,
            REFRESH,
            "models",
            {one.source: {"added": one.added, "missing": one.missing, "returned": one.returned} for one in changes},
        )
    return results


def _look(source: Source) -> Looked:
    try:
        found = source.look()
        running = source.running()
    except SourceError as error:
        logger.warning("%s", error)
        return Looked(source.label, error=str(error))
    added, returned, seen, faults = [], [], set(), []
    by_digest: dict[tuple[str, str], str] = {}
    for one in found:
        if one.fault:
            faults.append(one.fault)
            continue
        try:
            version, is_new = _note(source, one)
        except (Conflict, artifacts.ArtifactError) as error:
            faults.append(str(error))
            continue
        seen.add(version.pk)
        by_digest[one.name, one.digest] = str(version)
        if is_new:
            added.append(str(version))
        elif version.status == VersionStatus.MISSING:
            versions.set_status(version, VersionStatus.READY)
            returned.append(str(version))
    missing = _mark_missing(source.label, seen, f"It is no longer found at {source.label}.")
    if running is not None:
        _tell_running(source.label, running, by_digest)
    return Looked(source.label, len(found), added, missing, returned, " ".join(faults))


def _tell_running(label: str, running: Sequence[Running], by_digest: Mapping[tuple[str, str], str]) -> None:
    reports = [
        LoadReport(known, LoadState.READY, since=timezone.now(), device=one.device, memory_bytes=one.memory_bytes)
        for one in running
        if (known := by_digest.get((one.name, one.digest))) is not None
    ]
    processes.report_elsewhere(label, reports)


def _note(source: Source, found: Found) -> tuple[ModelVersion, bool]:
    """The version of what was found, made when there is none with that content."""
    with transaction.atomic():
        model = versions.register_model(found.name, found.kind, found.provider, found.description)
        same = ModelVersion.objects.filter(model=model)
        if found.files:
            known = same.filter(artifacts__model=found.digest).first()
        else:
            known = same.filter(source=source.label, parameters__digest=found.digest).first()
        if known is not None:
            known.seen_at = timezone.now()
            known.save(update_fields=["seen_at"])
            return known, False
        stored = {role: artifacts.put(path, path.name).sha256 for role, path in found.files.items()}
        parameters = dict(found.parameters) if stored else {**found.parameters, "digest": found.digest}
        version = versions.register_version(model, stored, parameters, found.metrics, found.provenance)
        version.source, version.seen_at = source.label[:300], timezone.now()
        version.save(update_fields=["source", "seen_at"])
    return version, True


def _mark_missing(label: str, seen: set[int], why: str) -> list[str]:
    """Mark what is no longer there. What has its files in the artifact store goes on working, so it is left alone."""
    gone = ModelVersion.objects.filter(source=label, artifacts={}).exclude(pk__in=seen).select_related("model")
    marked = []
    for version in gone.exclude(status=VersionStatus.MISSING):
        versions.set_status(version, VersionStatus.MISSING, why)
        marked.append(str(version))
    return marked


def _forgotten(labels: set[str]) -> list[Looked]:
    """What was found at sources that are no longer named."""
    old = ModelVersion.objects.exclude(source="").exclude(source__in=labels).exclude(status=VersionStatus.MISSING)
    results = []
    for label in sorted(set(old.values_list("source", flat=True))):
        marked = _mark_missing(label, set(), f"Its source, {label}, is no longer among the settings.")
        if marked:
            results.append(Looked(label, missing=marked))
    return results
