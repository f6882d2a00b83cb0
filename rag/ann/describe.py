"""Configurations in words, the same in the shell, the admin and the API."""

from __future__ import annotations

from rag.ann import indexes
from rag.models import AnnConfig, AnnPrecision, AnnState, AnnStrategy


def progress_line(progress: indexes.Progress) -> str:
    return progress.phase if progress.share is None else f"{progress.phase}: {progress.share:.0%}"


def state_of(config: AnnConfig) -> str:
    """The state, with how far a build is and why one failed."""
    if config.state == AnnState.BUILDING and (progress := indexes.progress(config.index_name)) is not None:
        return f"building ({progress_line(progress)})"
    return f"failed: {config.failure}" if config.state == AnnState.FAILED else config.state


def how(config: AnnConfig) -> str:
    """The settings that matter for the strategy, on one line."""
    if config.strategy == AnnStrategy.EXACT:
        return "exact"
    if config.strategy == AnnStrategy.HNSW:
        parts = [f"HNSW m {config.m}, ef_construction {config.ef_construction}, ef_search {config.ef_search}"]
    else:
        parts = [f"IVFFlat lists {config.lists or 'auto'}, probes {config.probes}"]
    if config.precision == AnnPrecision.BINARY:
        parts.append(f"binary, rerank {config.rerank}")
    elif config.precision == AnnPrecision.HALF:
        parts.append("half precision")
    parts.append(f"iterative {config.iterative_scan}")
    return ", ".join(parts)
