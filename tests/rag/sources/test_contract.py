"""What holds for every kind of place alike."""

from __future__ import annotations

import pytest

from ops.contracts.principal import SYSTEM
from rag.ingest.service import remove_document
from rag.models import IndexRun, SourceOutcome
from tests.rag.sources.conftest import Make, ids, look, texts
from tests.rag.sources.places import Site, TestPlace

pytestmark = pytest.mark.django_db


@pytest.fixture
def filled(place: TestPlace) -> TestPlace:
    place.put("bees.txt", "Bees make honey.")
    place.put("deep/tax.txt", "Income tax is due in January.")
    place.put("tea.txt", "Green tea wants 70 degrees.")
    return place


def start_page(place: TestPlace) -> set[str]:
    """A web site's own page that leads to the others is a document too."""
    return {"shelf/docs/"} if isinstance(place, Site) else set()


def named(place: TestPlace, *paths: str) -> set[str]:
    below = "docs/" if isinstance(place, Site) else ""
    return {f"shelf/{below}{path}" for path in paths}


def test_what_is_there_is_indexed_and_followed(filled: TestPlace, make: Make) -> None:
    source = look(make(filled))
    assert (source.outcome, source.error) == (SourceOutcome.OK, "")
    assert ids() == named(filled, "bees.txt", "deep/tax.txt", "tea.txt") | start_page(filled)
    assert source.last_run is not None
    assert (source.last_run.origin, source.last_run.failed) == ("source: shelf", 0)

    (tea,) = named(filled, "tea.txt")
    filled.put("tea.txt", "Green tea wants 75 degrees, or 80.")
    filled.put("coffee.txt", "Coffee wants 93 degrees.")
    filled.remove("bees.txt")
    source = look(source)
    assert (source.outcome, source.tally["gone"]) == (SourceOutcome.OK, 1)
    assert ids() == named(filled, "coffee.txt", "deep/tax.txt", "tea.txt") | start_page(filled)
    assert texts()[tea] == "Green tea wants 75 degrees, or 80."


def test_what_is_the_same_is_not_read_again(filled: TestPlace, make: Make) -> None:
    source = look(make(filled))
    runs = IndexRun.objects.count()
    source = look(source)
    assert (source.outcome, source.tally["found"], source.tally["same"]) == (
        SourceOutcome.OK,
        0,
        3 + len(start_page(filled)),
    )
    assert IndexRun.objects.count() == runs, "there was nothing to do"


def test_a_dry_run_tells_and_changes_nothing(filled: TestPlace, make: Make) -> None:
    source = look(make(filled))
    before = texts()
    filled.remove("bees.txt")
    filled.put("coffee.txt", "Coffee wants 93 degrees.")
    source = look(source, dry_run=True)
    assert source.preview is not None
    told = {document_id: state for state, document_id, _ in source.preview["changes"]}
    (coffee,), (bees,) = named(filled, "coffee.txt"), named(filled, "bees.txt")
    assert (told[coffee], told[bees]) == ("added", "removed")
    assert texts() == before
    source = look(source)
    assert bees not in ids(), "a dry run leaves nothing behind that hides a change"


def test_a_place_that_is_away_loses_nothing(filled: TestPlace, make: Make) -> None:
    source = look(make(filled))
    before = texts()
    filled.close()
    source = look(source)
    assert (source.outcome, source.failures_in_a_row) == (SourceOutcome.FAILED, 1)
    assert source.error
    assert texts() == before


def test_a_place_that_is_suddenly_empty_is_asked_about(filled: TestPlace, make: Make) -> None:
    # A site's start page always says something: what is taken are its texts.
    source = look(make(filled, options={"include": ["*.txt"]}))
    for path in ("bees.txt", "deep/tax.txt", "tea.txt"):
        filled.remove(path)
    before = texts()
    source = look(source)
    assert source.outcome == SourceOutcome.FAILED
    assert "may be empty" in source.error
    assert texts() == before
    source = look(source, may_be_empty=True)
    assert (source.outcome, ids()) == (SourceOutcome.OK, set())


def test_what_somebody_deleted_stays_deleted_until_it_changes(filled: TestPlace, make: Make) -> None:
    source = look(make(filled))
    (tea,) = named(filled, "tea.txt")
    remove_document(source.collection, tea, SYSTEM)
    source = look(source)
    assert tea not in ids()
    filled.put("tea.txt", "Green tea wants 75 degrees, or 80.")
    look(source)
    assert tea in ids()


def test_only_what_is_selected_is_taken(filled: TestPlace, make: Make) -> None:
    below = "docs/" if isinstance(filled, Site) else ""
    source = look(make(filled, options={"include": [f"/{below}*.txt", "deep/"], "exclude": ["bees.*"]}))
    assert ids() == named(filled, "deep/tax.txt", "tea.txt")
    assert source.tally["left_out"]["is not selected"] >= 1
