"""The client says the same as the server's OpenAPI document, so that neither changes without the other."""

from __future__ import annotations

import ast
import inspect
import re
import sys
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from packaging.requirements import Requirement

from rag.ingest import formats
from rag.models import DocumentState, FeedbackKind, RunState
from zenglow_client import ZenGlow, models
from zenglow_client.files import TEXTS
from zenglow_client.operations import OPERATIONS, Operation
from zenglow_client.transport import VERSION

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "reference" / "openapi.yaml").read_text("utf-8"))
SENT_BY_THE_CLIENT = {"Idempotency-Key", "If-Match"}

METHODS = {
    "query2": ZenGlow.search,
    "query": ZenGlow.ask,
    "put_document": ZenGlow.put_document,
    "create_collection": ZenGlow.create_collection,
    "update_collection": ZenGlow.update_collection,
    "put_fusion_weights": ZenGlow.set_weights,
    "roll_back_fusion_weights": ZenGlow.roll_back_weights,
    "give_feedback": ZenGlow.give_feedback,
    "sync_source": ZenGlow.sync_source,
}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema without references at its top, and whether ``null`` is among its types left as a type."""
    while True:
        if "$ref" in schema:
            schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        elif len(schema.get("allOf", ())) == 1:
            schema = schema["allOf"][0]
        else:
            return schema


def described(operation: Operation) -> dict[str, Any]:
    found = DOCUMENT["paths"].get(operation.path, {}).get(operation.method.lower())
    assert found is not None, f"The server has no {operation.method} {operation.path}"
    return cast(dict[str, Any], found)


def body_schemas(operation: Operation) -> list[dict[str, Any]]:
    content = described(operation).get("requestBody", {}).get("content", {})
    if "application/json" not in content:
        return []
    schema = resolved(content["application/json"]["schema"])
    return [resolved(one) for one in schema.get("oneOf", [schema])]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
def test_an_operation_is_one_of_the_servers(operation: Operation) -> None:
    found = described(operation)
    assert found["operationId"] == operation.id
    parameters = {(one["in"], one["name"]) for one in found.get("parameters", ())}
    assert {name for place, name in parameters if place == "query"} == operation.query
    headers = {name for place, name in parameters if place == "header"}
    assert headers <= SENT_BY_THE_CLIENT
    assert ("Idempotency-Key" in headers) == operation.takes_idempotency_key
    assert {name for place, name in parameters if place == "path"} == set(re.findall(r"{(\w+)}", operation.path))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
def test_a_body_has_the_fields_that_the_server_reads(operation: Operation) -> None:
    accepted = [set(schema.get("properties", {})) for schema in body_schemas(operation)]
    if operation.fields:
        assert set(operation.fields) in accepted
    else:
        assert not accepted


@pytest.mark.parametrize(
    "operation", [one for one in OPERATIONS if one.id in METHODS], ids=lambda operation: operation.id
)
def test_a_method_takes_every_field(operation: Operation) -> None:
    parameters = set(inspect.signature(METHODS[operation.id]).parameters)
    # Whether it is streamed is the method's choice.
    assert operation.fields - {"stream"} | operation.query <= parameters


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.id)
def test_an_answer_has_the_fields_and_types_that_the_server_sends(operation: Operation) -> None:
    good = [answer for status, answer in described(operation)["responses"].items() if status.startswith("2")]
    assert good
    if operation.answer is None:
        assert all("content" not in answer for answer in good)
        return
    schema = operation.answer.model_json_schema(mode="validation")
    for answer in good:
        assert_same(schema, schema, answer["content"]["application/json"]["schema"], operation.answer.__name__)


def assert_same(root: dict[str, Any], ours: dict[str, Any], theirs: dict[str, Any], place: str) -> None:
    """Whatever the server may send by ``theirs`` is accepted by ``ours``, and no field is missing from ours."""
    ours, theirs = own_resolved(root, ours), resolved(theirs)
    if not ours.get("type") and "anyOf" not in ours:
        return  # anything
    alternatives = [resolved(one) for one in theirs.get("oneOf", [theirs])]
    assert types_of(root, ours) >= {kind for one in alternatives for kind in their_types(one)}, place
    objects = [one for one in alternatives if "properties" in one]
    for shape in objects:
        mine = next(
            (one for one in [own_resolved(root, each) for each in ours.get("anyOf", [ours])] if "properties" in one),
            None,
        )
        if mine is None:
            continue  # a mapping, read as one
        missing = set(shape["properties"]) - set(mine["properties"])
        assert not missing, f"{place} lacks {missing}"
        assert set(mine.get("required", ())) <= set(shape.get("required", ())), place
        for name, field in mine["properties"].items():
            assert name in shape["properties"], f"the server sends no {place}.{name}"
            assert_same(root, field, shape["properties"][name], f"{place}.{name}")
    for shape in alternatives:
        if shape.get("type") == "array" and "items" in ours:
            assert_same(root, ours["items"], shape["items"], f"{place}[]")


def own_resolved(root: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    return root["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def types_of(root: dict[str, Any], schema: dict[str, Any]) -> set[str]:
    kinds = {own_resolved(root, one).get("type", "any") for one in schema.get("anyOf", [schema])}
    return kinds | {"integer"} if "number" in kinds else kinds


def their_types(schema: dict[str, Any]) -> set[str]:
    if "enum" in schema and "type" not in schema:
        return {"string"}
    kind = schema.get("type", "object" if "properties" in schema else [])
    return {kind} if isinstance(kind, str) else set(kind)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (models.DocumentState, DocumentState.values),
        (models.RunState, RunState.values),
        (models.FeedbackKind, FeedbackKind.values),
    ],
)
def test_a_fixed_set_of_words_is_the_servers(ours: Any, theirs: list[str]) -> None:
    assert set(ours.__args__) == set(theirs)


def test_texts_are_sent_as_kinds_that_the_server_reads() -> None:
    for suffix, media_type in TEXTS.items():
        assert formats.media_type_of_name(f"x{suffix}") == media_type


def test_the_package_names_what_it_imports_and_nothing_of_the_server() -> None:
    project = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == VERSION
    declared = {Requirement(one).name for one in project["dependencies"]}
    imported: set[str] = set()
    for path in sorted((ROOT / "client" / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    # Each of them is named as the module that it carries.
    assert imported - sys.stdlib_module_names - {"zenglow_client"} == declared
