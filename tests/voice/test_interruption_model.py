"""The trained judge of interruptions: what it was trained on, and what it is worth."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from models_registry import versions
from voice import installed
from voice.recipes import SHIPPED_JUDGE, interruption
from voice.turns.interruption_model import InterruptionModel, features
from voice.turns.interruptions import Interruption, Moment, Rules

ROOT = Path(__file__).resolve().parent.parent.parent


def test_there_are_enough_utterances_of_every_class_and_no_phrase_is_in_both_halves() -> None:
    halves = {name: interruption.read(name) for name in ("train", "held_out")}
    assert sum(len(half) for half in halves.values()) >= 600
    for half in halves.values():
        counts = [sum(one.kind is kind for one in half) for kind in Interruption]
        assert min(counts) >= 50
    phrases = [{one.moment.text for one in half} for half in halves.values()]
    assert not phrases[0] & phrases[1]


def test_f1_as_worked_out_by_hand() -> None:
    examples = [
        interruption.Example(Moment("x"), kind) for kind in (Interruption.STOP, Interruption.STOP, Interruption.NOISE)
    ]
    scores = interruption.f1_scores(examples, [Interruption.STOP, Interruption.NOISE, Interruption.NOISE])
    assert scores[Interruption.STOP] == pytest.approx(2 / 3)
    assert scores[Interruption.NOISE] == pytest.approx(2 / 3)
    assert scores[Interruption.QUESTION] == 0.0


def test_the_model_that_ships_reaches_what_it_says_and_more_than_rules_and_majority() -> None:
    about = json.loads(SHIPPED_JUDGE.read_text())
    held_out = interruption.read("held_out")
    measured = interruption.evaluate(InterruptionModel(about).judge, held_out)
    assert measured == about["metrics"]["model"]
    assert interruption.evaluate(Rules().judge, held_out)["macro_f1"] < measured["macro_f1"]
    for kind in Interruption:
        assert measured[kind.value] > about["metrics"]["majority"][kind.value]


def test_it_was_trained_on_the_training_half_alone() -> None:
    about = json.loads(SHIPPED_JUDGE.read_text())
    (dataset,) = about["provenance"]["datasets"]
    assert dataset["sha256"] == interruption._sha256("train")
    assert about["provenance"]["held_out_sha256"] == interruption._sha256("held_out")


def test_training_twice_gives_the_same_and_what_was_said_is_learned() -> None:
    few = interruption.read("train")[::4]
    model = interruption.train(few, 0.1)
    again = interruption.train(few, 0.1)
    assert model.probabilities(few[0].moment) == again.probabilities(few[0].moment)
    assert interruption.evaluate(model.judge, few)["right"] > 0.95


def test_the_dialogue_counts() -> None:
    with_it = dict(features(Moment("which cache", "look at the cache", "what of the cache")))
    assert with_it["overlap:agent"] == 0.5
    assert with_it["overlap:asked"] == 0.5
    assert dict(features(Moment("which cache", agent_state="thinking")))["state:thinking"] == 1.0


def test_silence_is_noise_and_a_broken_file_is_refused() -> None:
    model = InterruptionModel.load(SHIPPED_JUDGE)
    assert model.judge(Moment("  ")) is Interruption.NOISE
    assert sum(model.probabilities(Moment("stop"))) == pytest.approx(1.0)
    for broken in ({}, {"format": 1, "classes": ["stop"], "features": {"w:a": [1, 2]}, "intercept": [0]}):
        with pytest.raises(ValueError):
            InterruptionModel(broken)


def test_the_live_one_judges_and_without_one_the_rules_do(live_models: None) -> None:
    assert isinstance(installed.judge_of_interruptions(), InterruptionModel)
    version = versions.find_version("interruption-default")
    assert version.metrics["model"]["macro_f1"] > version.metrics["rules"]["macro_f1"]
    version.deployments.update(ended_at=version.created_at.replace(year=3000))
    from models_registry.live import view

    view.expire()
    assert isinstance(installed.judge_of_interruptions(), Rules)


def test_the_held_out_half_is_older_than_the_model() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("This is no checkout with a history.")

    def first_commit(path: str) -> int:
        command = ["git", "log", "--diff-filter=A", "--format=%ct", "--reverse", "--", path]
        told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
        return int(told[0]) if told else 0

    folder = "voice/recipes/interruptions"
    written, made = first_commit(f"{folder}/held_out.tsv"), first_commit(f"{folder}/default.json")
    if not written or not made:
        pytest.skip("The history of this checkout does not go back so far.")
    assert written <= made
