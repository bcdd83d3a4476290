"""Schemas and patterns of a few bytes that would keep an engine busy for minutes, or end it."""

from __future__ import annotations

import json
import time
from typing import Any

import orjson
import pytest

from ichat.front.repetitions import repetition_excess


def excess(value: Any, key: str = "response_format") -> str | None:
    return repetition_excess(key, value, orjson.dumps(value))


def wrapped(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def nested(*counts: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "integer"}
    for count in counts:
        schema = {"type": "array", "items": schema, "minItems": count}
    return schema


TOO_OFTEN = [
    *({name: 10**8} for name in ("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties")),
    {"maxLength": 1e9},
    nested(100, 100, 100),
    nested(1000, 1000),
    {"type": "array", "maxItems": 1000, "items": {"type": "string", "maxLength": 1000}},
    {"properties": {"a": {"items": {"anyOf": [{"minLength": 10**6}]}}}},
    {"pattern": "^[a-z]{1,10000}$"},
    {"pattern": "(a{1,100}){1,100}"},
    {"pattern": "((ab){50}[\\]x]{50})?{9}{9}"},
    {"patternProperties": {"x{5000}": {}}},
]


@pytest.mark.parametrize("schema", TOO_OFTEN, ids=json.dumps)
def test_what_is_repeated_too_often_is_refused_wherever_it_stands(schema: dict[str, Any]) -> None:
    assert excess(wrapped(schema))
    assert excess(wrapped(json.dumps(schema)))
    assert excess(json.dumps(schema), "json_schema")
    assert excess({"function": {"name": "f", "parameters": schema}}, "tools")


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"anyOf": [{"type": "string"}, {"$ref": "#"}]},
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
        {"properties": {"x~/y": {"$ref": "#/properties/x~0~1y"}}},
        {"properties": {"a": {"oneOf": [{"$ref": "#/properties/a/oneOf/0"}]}}},
    ],
    ids=json.dumps,
)
def test_a_reference_to_itself_is_refused(schema: dict[str, Any]) -> None:
    assert "refers to itself" in (excess(wrapped(schema)) or "")
    assert "refers to itself" in (excess(json.dumps(schema), "json_schema") or "")


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"tree": {"properties": {"left": {"$ref": "#/$defs/tree"}}}}, "$ref": "#/$defs/tree"},
        {"properties": {"child": {"$ref": "#"}}, "items": {"$ref": "#"}},
        {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}], "$defs": {"a": {"type": "string"}}},
        {"$ref": "https://example.com/x"},
        {"$ref": "#/nowhere/0"},
        {"maxLength": 65535},
        nested(20, 20, 20),
        {"properties": {"maxLength": {"type": "integer", "maximum": 10**9}}},
        {"default": {"maxLength": 10**9}, "enum": [{"minItems": 10**9}]},
        {"pattern": "^\\d{4}-\\d{2}-\\d{2}T[\\w:]{1,64}\\{99999}$"},
        {"maxLength": True},
        {"minItems": "x"},
        False,
    ],
    ids=json.dumps,
)
def test_what_people_write_passes(schema: Any) -> None:
    assert excess(wrapped(schema)) is None


def test_a_pattern_by_itself_is_bounded_too() -> None:
    assert excess("[a-z]{1,100000}", "regex")
    assert excess('root ::= "a"{1,5000}', "ebnf")
    assert excess("[a-z]{1,500}", "regex") is None
    assert excess("a{" * 5000 + "(" * 5000, "regex") is None


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= root",
        'root ::= a "x"\na ::= b\nb ::= root | "y"',
        'root ::= (a | "b")? root "c"\na ::= "x"',
        'root ::= "" root',
        'root ::= a root\na ::= "x"*',
        "root ::= [a-z]{0,5} root",
        "root ::= " + "(" * 5000 + "a" + ")" * 5000,
    ],
)
def test_a_rule_that_begins_with_itself_is_refused(grammar: str) -> None:
    assert "begins with itself" in (excess(grammar, "ebnf") or "")
    assert "begins with itself" in (excess({"grammar": grammar}, "structured_outputs") or "")


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "a" root | ""',
        'root ::= expr\nexpr ::= term ("+" term)*\nterm ::= [0-9]+ | "(" expr ")"',
        'list ::= item list | ""\nitem ::= "x"  # list ::= list',
        'root ::= "root ::= root"',
        "root ::= [a-z]+ root?",
        "what is no grammar",
        "\n".join(f"r{n} ::= r{n + 1}" for n in range(3000)),
    ],
)
def test_a_grammar_that_takes_a_character_first_passes(grammar: str) -> None:
    assert excess(grammar, "ebnf") is None


def test_it_takes_no_longer_for_a_schema_that_is_made_for_it() -> None:
    schema: dict[str, Any] = {"$defs": {str(n): {"anyOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(900)}}
    schema["properties"] = {str(n): {"$ref": f"#/$defs/{n}"} for n in range(900)}
    began = time.process_time()
    assert excess(wrapped(schema)) is None
    assert excess("(" * 30000 + "a" + "){2}" * 9000, "regex")
    assert time.process_time() - began < 1
