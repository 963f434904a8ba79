"""The OpenAPI document, from the same table that makes the routes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway import __version__
from gateway.web.endpoints import Endpoint, ErrorAnswer

_WORDS = {
    400: "the request does not fit its description",
    401: "nobody is logged in, or the token is not valid",
    403: "the scope does not allow it, or the CSRF token is missing",
    404: "there is no such thing",
    409: "it conflicts with what is there, or the idempotency key was used for another request",
    413: "the body is too large",
    429: "too many requests; Retry-After says when to come back",
    503: "the chain or the broker cannot be reached now",
}
_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[!-~]+$"},
    "description": "the same key and body again get the stored answer; another body gets 409",
}


def document(endpoints: Sequence[Endpoint], prefix: str) -> dict[str, Any]:
    """Return the document as JSON values."""
    shapes = [shape for endpoint in endpoints for shape in (endpoint.answer, endpoint.body) if shape is not None]
    schemas, components = msgspec.json.schema_components(
        [*shapes, ErrorAnswer], ref_template="#/components/schemas/{name}"
    )
    by_shape = dict(zip(map(repr, [*shapes, ErrorAnswer]), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(prefix + endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, by_shape)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Metergate",
            "version": __version__,
            "description": "Amounts are decimal strings in token base units, ids 0x-hex, times Unix seconds.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": "metergate_session"},
            },
        },
    }


def _operation(endpoint: Endpoint, schemas: Mapping[str, Any]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)", endpoint.path)
    ]
    parameters += [
        {"name": query.name, "in": "query", "schema": _or_empty(query.schema), "description": query.words}
        for query in endpoint.queries
    ]
    if endpoint.action and endpoint.kept:
        parameters.append(_KEY)
    error = {"content": {"application/json": {"schema": schemas[repr(ErrorAnswer)]}}}
    answers: dict[str, Any] = {str(endpoint.status): _answer(endpoint, schemas)}
    answers |= {str(status): {"description": _WORDS[status], **error} for status in sorted(_errors(endpoint))}
    operation: dict[str, Any] = {
        "operationId": f"{endpoint.method.lower()}_{re.sub(r'[^a-z]+', '_', endpoint.path).strip('_')}",
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "parameters": parameters,
        "responses": answers,
        "security": [] if endpoint.scope is None else [{"token": []}, {"session": []}],
    }
    if endpoint.scope is not None:
        operation["description"] = f"Needs the scope `{endpoint.scope.value}`."
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schemas[repr(endpoint.body)]}},
        }
    return operation


def _or_empty(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A form sends what was not filled in as an empty text: it counts as none."""
    told = dict(schema)
    if "enum" in told:
        told["enum"] = [*told["enum"], ""]
    if told["type"] == "integer":
        return {"anyOf": [told, {"const": ""}]}
    return told


def _answer(endpoint: Endpoint, schemas: Mapping[str, Any]) -> dict[str, Any]:
    if endpoint.answer is None:
        return {"description": "done"}
    return {"description": "the answer", "content": {"application/json": {"schema": schemas[repr(endpoint.answer)]}}}


def _errors(endpoint: Endpoint) -> set[int]:
    errors = {*endpoint.errors, 400}
    if endpoint.scope is not None:
        errors |= {401, 403, 429}
    if endpoint.action:
        errors |= {409, 413, 429}
    if "{" in endpoint.path:
        errors.add(404)
    return errors
