"""How written text is said, and where its sentences end."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voice.sentences import LONGEST, Sentences
from voice.spoken_text import spoken


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("The limit is 250 ms [1].", "The limit is 250 milliseconds."),
        ("It takes 1 min. or so [2, 3].", "It takes 1 minute. or so."),
        ("Hot: 80 °C, i.e. 176°F", "Hot: 80 degrees Celsius, that is 176 degrees Fahrenheit"),
        ("It rose by 12 % from 3–5 GB.", "It rose by 12 per cent from 3 to 5 gigabytes."),
        ("See https://www.example.org/a/b?c=d#e for more.", "See the address at example dot org for more."),
        ("Call `search()` or `rag.pipeline`.", "Call search or rag dot pipeline."),
        ("Run this:\n```\nrm -rf /\n```\nThen wait.", "Run this: some code that is on the screen. Then wait."),
        ("## Heading\n\n- one\n- two", "Heading. one two"),
        ("**Bold** and [a link](https://example.org).", "Bold and a link."),
        ("It costs £1,200, e.g. in May.", "It costs 1200 pounds, for example in May."),
        ("read/write, a_b & c", "read or write, a b and c"),
        ("[1]", ""),
        ("***", ""),
        ("", ""),
    ],
)
def test_it_says(written: str, said: str) -> None:
    assert spoken(written) == said


@given(st.text(max_size=300))
def test_whatever_is_written_is_said_without_marks_and_control_characters(text: str) -> None:
    said = spoken(text)
    assert not set(said) & set("\n\t\x00`*_|<>{}\\")
    assert said == said.strip()


@given(st.text(st.sampled_from("ab1 .[](){}`*#-_/:%§\n"), max_size=400))
def test_what_is_said_once_is_said_the_same_again(text: str) -> None:
    assert "```" not in spoken(text)


def split(text: str) -> list[str]:
    sentences = Sentences()
    return [*sentences.take(text), *sentences.finish()]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("It is so [1]. And so [2].", ["It is so [1].", "And so [2]."]),
        ("It is so. [1] And so.", ["It is so. [1]", "And so."]),
        ("See e.g. the log. Mr. Smith did.", ["See e.g. the log.", "Mr. Smith did."]),
        ("It took 3.5 seconds. Then it ended.", ["It took 3.5 seconds.", "Then it ended."]),
        ("He said “no.” Then he left.", ["He said “no.”", "Then he left."]),
        ("A heading\n\nA paragraph", ["A heading", "A paragraph"]),
        ("Do this:\n1. wait\n2. go", ["Do this:", "1. wait", "2. go"]),
    ],
)
def test_sentences_end(text: str, sentences: list[str]) -> None:
    assert [sentence.strip() for sentence in split(text)] == sentences


@given(st.lists(st.text(st.sampled_from("abc .!?,\n[1]"), max_size=60), max_size=12))
def test_sentences_joined_are_the_text_however_it_comes(pieces: list[str]) -> None:
    sentences = Sentences()
    found = [sentence for piece in pieces for sentence in sentences.take(piece)] + list(sentences.finish())
    assert "".join(found) == "".join(pieces)


@given(st.text(st.sampled_from("abc ."), max_size=3000))
def test_no_sentence_is_too_long_to_be_said(text: str) -> None:
    assert all(len(sentence) <= LONGEST + 5 for sentence in split(text))


def test_a_sentence_is_given_as_soon_as_the_next_begins() -> None:
    sentences = Sentences()
    assert list(sentences.take("It is cold")) == []
    assert list(sentences.take(".")) == []
    assert list(sentences.take(" [1]")) == []  # its citation belongs to it
    assert list(sentences.take(" It")) == ["It is cold. [1]"]
