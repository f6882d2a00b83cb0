"""``zenglow index``: files and folders of this machine into a collection of the server's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from zenglow_client import errors, files, models
from zenglow_client.client import DocumentText, ZenGlow
from zenglow_client.console import output
from zenglow_client.console.shared import as_json, collection, pairs, server

COUNTS = ("added", "changed", "unchanged", "failed")
FAILURES_SHOWN = 20


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@collection
@click.option("--create", is_flag=True, help="Make the collection where there is none.")
@click.option("--metadata", multiple=True, metavar="KEY=VALUE", callback=pairs, help="Searches can filter by it.")
@click.option("--group", "groups", multiple=True, metavar="NAME", help="Who may read it; else the collection's.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent, and send nothing.")
@click.option("--no-wait", is_flag=True, help="Don't wait until it can be found.")
@as_json
@click.pass_context
def index(
    context: click.Context,
    paths: tuple[Path, ...],
    collection: str | None,
    create: bool,
    metadata: dict[str, Any],
    groups: tuple[str, ...],
    dry_run: bool,
    no_wait: bool,
    as_json: bool,
) -> int:
    """Index files and folders. What is unchanged costs nothing; nothing is deleted."""
    found = files.find(paths)
    if dry_run:
        for file in found:
            output.line(file.document_id)
        output.note(f"{len(found)} files would be sent.")
        return 0
    client = server(context)
    if create and collection is not None:
        _ensure_collection(client, collection)
    about: dict[str, Any] = ({"metadata": metadata} if metadata else {}) | (
        {"access_groups": list(groups)} if groups else {}
    )
    sending = _Sending(client, collection, about)
    with output.progress() as shown:
        bar = shown.add_task("Sending", total=len(found))
        sending.send(found, lambda count: shown.advance(bar, count))
        if not no_wait:
            bar = shown.add_task("Indexing", total=sum(run.total for run in sending.runs))
            sending.follow(lambda done: shown.update(bar, completed=done))
    return _report(sending, as_json=as_json, is_over=not no_wait)


class _Sending:
    """What was sent, and what became of it."""

    def __init__(self, client: ZenGlow, collection: str | None, about: dict[str, Any]) -> None:
        self.client = client
        self.collection = collection
        self.about = about
        self.runs: list[models.IndexRun] = []
        self.failures: list[tuple[str, str]] = []

    def send(self, found: list[files.FoundFile], on_sent: Callable[[int], None]) -> None:
        """Texts many to a request, other files one by one."""
        texts: list[DocumentText] = []
        for file in found:
            try:
                text = files.text_of(file)
                if text is None:
                    self._upload(file)
            except OSError as error:
                self.failures.append((file.document_id, f"can't be read: {error.strerror or error}"))
                text = None
            if text is not None:
                text.update(self.about)  # type: ignore[typeddict-item]
                texts.append(text)
                continue
            on_sent(1)
        for batch in files.batches(texts):
            self.runs.append(self.client.index(batch, collection=self.collection))
            on_sent(len(batch))

    def follow(self, on_done: Callable[[int], None]) -> None:
        """See every run through."""
        done = 0
        for number, run in enumerate(self.runs):
            last = run
            for last in self.client.follow(run):
                on_done(done + last.done)
            done += last.done
            on_done(done)
            self.runs[number] = last
            if last.failed:
                listed = self.client.index_run(last.id, state="failed", limit=FAILURES_SHOWN).documents.results
                self.failures += [(item.document_id, item.reason) for item in listed]

    def _upload(self, file: files.FoundFile) -> None:
        try:
            run = self.client.upload(
                file.path,
                collection=self.collection,
                document_id=file.document_id,
                source=file.document_id,
                **self.about,
            )
        except errors.BadRequestError as error:
            self.failures.append((file.document_id, str(error)))  # of this file; the others may be good
        else:
            self.runs.append(run)


def _ensure_collection(client: ZenGlow, slug: str) -> None:
    try:
        client.collection(slug)
    except errors.NotFoundError:
        client.create_collection(slug)
        output.note(f"Made the collection '{slug}'.")


def _report(sending: _Sending, *, as_json: bool, is_over: bool) -> int:
    """What became of it; the exit code."""
    if as_json:
        output.as_json(
            {
                "runs": [run.model_dump(mode="json", exclude={"documents"}) for run in sending.runs],
                "failures": [{"document_id": name, "reason": reason} for name, reason in sending.failures],
            }
        )
    elif is_over:
        counts = Counter({name: sum(getattr(run, name) for run in sending.runs) for name in COUNTS})
        counts["failed"] = max(counts["failed"], len(sending.failures))
        output.line(" · ".join(f"{counts[name]} {name}" for name in COUNTS))
    else:
        output.line(f"Sent in {len(sending.runs)} runs: {', '.join(str(run.id) for run in sending.runs)}")
    for name, reason in sending.failures[:FAILURES_SHOWN]:
        output.note(f"failed: {name}: {reason.removeprefix(f'{name} ')}")
    if len(sending.failures) > FAILURES_SHOWN:
        output.note(f"… and {len(sending.failures) - FAILURES_SHOWN} more")
    return 1 if sending.failures else 0
