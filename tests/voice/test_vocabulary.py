"""Mixing a collection's words into the stock language model: the arithmetic by hand, and the real thing, heard."""

from __future__ import annotations

import math
import os
from io import BytesIO

import pytest
from celery import current_app
from hypothesis import given
from hypothesis import strategies as st

from models_registry.models import GLOBAL_SCOPE
from ops.contracts.principal import SYSTEM
from rag.ingest.plan import Offer
from rag.ingest.service import process_batch, start_run
from rag.models import Collection
from tests.patience import PATIENCE_S
from tests.voice.sounds import frames, pcm_of, silence
from voice import sessions
from voice.engines.contracts import SpeechToText
from voice.vocabulary import service
from voice.vocabulary.mix import END, START, Domain, General, arpa_lines, count, mix, read_general
from voice.vocabulary.words import COMPLETE, pronounce, read_passages, spoken_sentences

SENTENCE = st.lists(st.sampled_from(["a", "b", "c", "d"]), min_size=1, max_size=6)
KNOWN = {"the", "runbook", "says", "it's", "slow"}


def test_passages_become_sentences_of_known_words() -> None:
    assert list(spoken_sentences(["The RUNBOOK says: it’s slow.\nThe zyx slow"], KNOWN)) == [
        ["the", "runbook", "says"],
        ["it's", "slow"],
        ["the"],
        ["slow"],
    ]


def test_what_is_counted_by_hand() -> None:
    model = count([["a", "b"], ["a", "a"]])
    # Words, without the beginning: a three times, b once, the end twice.
    assert model.words == {"a": 3 / 6, "b": 1 / 6, END: 2 / 6}
    assert model.pairs[START] == {"a": 0.5}
    # Each word follows an a, so that nothing is kept back for others.
    assert model.pairs["a"] == pytest.approx({"b": 1 / 3, "a": 1 / 3, END: 1 / 3})
    assert model.pairs["b"] == {END: 0.5}
    assert model.backoff[START] == pytest.approx(0.5 / (1 - 3 / 6))
    assert model.triples[START, "a"] == {"b": 0.25, "a": 0.25}
    assert model.pair_backoff[START]["a"] == pytest.approx(0.5 / (1 - 2 / 3))


def test_words_of_no_dictionary_sound_like_their_parts() -> None:
    dictionary = {"run": "R AH N", "book": "B UH K", "cash": "K AE SH", "index": "IH N D EH K S", "under": "AH N D ER"}
    assert pronounce("runbook", dictionary) == "R AH N B UH K"
    assert pronounce("runbooks", dictionary) == "R AH N B UH K S"
    assert pronounce("cashs", dictionary) == "K AE SH IH Z"
    assert pronounce("unders", dictionary) == "AH N D ER Z"
    assert pronounce("zyx", dictionary) is None


def general() -> General:
    model = General()
    model.words = {START: (1e-99, 0.6), "a": (0.5, 0.8), "c": (0.3, 1.0), END: (0.2, 1.0)}
    model.pairs = {"a": {"c": 0.4, END: 0.2}, START: {"a": 0.7}}
    return model


def probability(lines: list[str], history: str, word: str) -> float:
    """``p(word | history)`` as a reader of the file works it out."""
    ones: dict[str, tuple[float, float]] = {}
    pairs: dict[tuple[str, str], float] = {}
    for line in "".join(lines).splitlines():
        parts = line.split()
        if len(parts) == 3 and parts[0].startswith("-"):
            ones[parts[1]] = float(parts[0]), float(parts[2])
        elif len(parts) == 4 and parts[0].startswith(("-", "0")) and parts[3].lstrip("-").replace(".", "").isdigit():
            pairs[parts[1], parts[2]] = float(parts[0])
    if (history, word) in pairs:
        return float(10 ** pairs[history, word])
    return float(10 ** (ones[history][1] + ones[word][0]))


@given(st.lists(SENTENCE, min_size=1, max_size=8), st.floats(0.05, 0.95))
def test_after_every_word_the_probabilities_sum_to_one(sentences: list[list[str]], weight: float) -> None:
    mixed = mix(general(), count(sentences), weight)
    assert math.isclose(sum(mixed.words.values()), 1.0, abs_tol=1e-6)
    lines = list(arpa_lines(mixed))
    for history in [START, *mixed.words]:
        if history != END:
            total = sum(probability(lines, history, word) for word in mixed.words)
            assert total == pytest.approx(1.0, abs=0.01)


def test_the_weight_is_the_share_of_the_domain() -> None:
    domain = count([["a", "b"]])
    mixed = mix(general(), domain, 0.25)
    assert mixed.words["b"] == pytest.approx(0.25 * domain.words["b"])
    assert mixed.pairs["a"]["c"] == pytest.approx(0.75 * 0.4 + 0.25 * domain.given("c", "a"))
    assert mix(general(), Domain(), 0.0).words["a"] == pytest.approx(0.5)


def test_the_stock_model_is_cut_to_what_is_frequent_or_wanted_even_when_its_file_breaks_off() -> None:
    lines = [
        *("\\data\\\n", "\\1-grams:\n", "-1.0\tfrequent\t-0.5\n", "-5.0\trare\t-0.5\n", "-6.0\twanted\t0.0\n"),
        *("-99.0\t<s>\t-1.0\n", "-1.1\t</s>\t0.0\n", "\\2-grams:\n", "-0.5\tfrequent\twanted\t0.0\n"),
        *("-0.6\tfrequent\trare\t0.0\n", "-4."),
    ]
    model = read_general(lines, 1, {"wanted"})
    assert set(model.words) == {START, END, "frequent", "wanted"}
    assert model.pairs == {"frequent": {"wanted": pytest.approx(10**-0.5)}}


@pytest.fixture
def handbook(transactional_db: None, live_models: None, settings: object) -> Collection:
    settings.VOICE_VOCABULARY = True  # type: ignore[attr-defined]
    for made in service.folder().glob("handbook.*"):
        made.unlink()
    collection = Collection.objects.create(slug="handbook")
    add(collection, {"slow": "What the runbook says about slow queries. Look at the dashboard when queries are slow."})
    return collection


def add(collection: Collection, texts: dict[str, str], **about: object) -> None:
    offers = [Offer(name, text.encode(), source=name, **about) for name, text in texts.items()]  # type: ignore[arg-type]
    run = start_run(collection, offers, SYSTEM, "command", enqueue=False)
    while process_batch(run.id):
        pass
    collection.refresh_from_db()


def test_a_collections_words_are_heard_and_heard_anew_when_it_changes(
    handbook: Collection, ears: SpeechToText, settings: object
) -> None:
    settings.VOICE_VOCABULARY_WORDS = 1000  # type: ignore[attr-defined]
    assert service.vocabulary_for("handbook") is None  # it is being made behind
    service.settle()
    made = service.vocabulary_for("handbook")
    assert made is not None
    assert made.exists()
    recognition = ears.start(lambda transcript: None, made)
    for frame in frames(silence(200) + pcm_of("slow-queries") + silence(200)):
        recognition.feed(frame)
    assert recognition.finish().result(PATIENCE_S).text == "what does the runbook say about slow queries"

    add(handbook, {"lamp": "How a lamp is lit."})
    assert service.vocabulary_for("handbook") == made  # the last one, until the next is there
    service.settle()
    following = service.vocabulary_for("handbook")
    assert following != made
    assert not made.exists()


def test_a_worker_makes_it_when_a_collection_was_indexed_but_not_after_each_small_change(
    handbook: Collection, settings: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.VOICE_VOCABULARY_WORDS = 1000  # type: ignore[attr-defined]
    monkeypatch.setitem(current_app.conf, "task_always_eager", True)
    listening = sessions._parts("handbook").vocabulary
    service.settle()  # what the session had made, of the collection as it was
    add(handbook, {"wick": "How a wick is cut."})
    service.settle()
    before = listening()
    assert before is not None
    assert before != service.path_of(handbook)

    os.utime(before, times=(0, 0))
    add(handbook, {"lamp": "How a lamp is lit."})
    service.settle()
    assert listening() == service.path_of(handbook)
    assert not before.exists()


def test_half_of_the_passages_make_no_vocabulary() -> None:
    assert read_passages(BytesIO(f"one\ntwo\n{COMPLETE}".encode())) == ["one", "two"]
    with pytest.raises(EOFError):
        read_passages(BytesIO(b"one\ntw"))


def test_documents_that_are_not_for_everybody_teach_no_words(handbook: Collection) -> None:
    add(handbook, {"secret": "The merger with Acme happens in May."}, access_groups=("board",))
    assert not any("merger" in text for text in service._passages(handbook))
    handbook.default_access_groups = ["board"]
    handbook.save()
    assert list(service._passages(handbook)) == []
    assert service.build("handbook") is None


def test_what_is_not_there_has_no_vocabulary(db: None, settings: object) -> None:
    assert service.vocabulary_for("nothing") is None
    assert service.vocabulary_for(GLOBAL_SCOPE) is None
    with pytest.raises(service.VocabularyError, match="no collection"):
        service.build("nothing")
