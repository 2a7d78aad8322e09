"""The OpenAPI description of bodies, which are read by hand."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

_REFERENCE = "#/components/schemas/{model}"


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """What an operation says about the body it reads; `describe` adds the schema."""
    content = {"application/json": {"schema": {"$ref": _REFERENCE.format(model=model.__name__)}}}
    return {"requestBody": {"required": True, "content": content}}


def describe(app: FastAPI, *bodies: type[BaseModel]) -> None:
    """Add the schemas of bodies, and of problems, to the description of `app`."""
    described = app.openapi

    def with_bodies() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = described()
            _, found = models_json_schema([(body, "validation") for body in bodies], ref_template=_REFERENCE)
            schema.setdefault("components", {}).setdefault("schemas", {}).update(found["$defs"])
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = with_bodies  # type: ignore[method-assign]
