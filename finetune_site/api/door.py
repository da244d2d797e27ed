"""The API put together: its rooms, its errors, and what its OpenAPI document says of all operations alike."""

from typing import Any

from ninja import NinjaAPI, Router
from ninja.openapi.schema import OpenAPISchema

from finetune_site.api import (
    chat,
    datasets,
    documents,
    jobs,
    label_studio,
    projects,
    publishing,
    recipes,
    runs,
    uploads,
)
from finetune_site.api.errors import ErrorOut, register
from finetune_site.api.idempotency import MAX_KEY

ROOMS: tuple[Router, ...] = (
    projects.router,
    documents.router,
    uploads.router,
    recipes.router,
    datasets.router,
    label_studio.router,
    runs.router,
    publishing.router,
    chat.router,
    jobs.router,
)
ERRORS = {
    400: "The request cannot be read",
    401: "No token, or one that is not valid",
    403: "The token lacks the scope, or its person the role",
    404: "There is nothing that the token's person may see",
    409: "Not possible as things stand; the sentence says what to do",
    413: "Too large",
    429: "Too many requests with tokens that are not valid; wait a minute",
    422: "Some of what was sent cannot be used; `fields` says which",
    500: "An error of the site, with a reference for the operator",
    503: "A file that ought to be here cannot be had now",
}
KEY_HEADER = {
    "in": "header",
    "name": "Idempotency-Key",
    "required": False,
    "description": "Sent twice with the same key within 24 hours, the work is done once and answered the same.",
    "schema": {"type": "string", "maxLength": MAX_KEY, "pattern": "^[!-~]+$"},
}


class Door(NinjaAPI):
    def get_openapi_schema(self, **options: Any) -> OpenAPISchema:
        """The document, with the errors that every operation may answer and the header that creating ones take."""
        schema = super().get_openapi_schema(**options)
        components = schema["components"]["schemas"]
        body = ErrorOut.model_json_schema(ref_template="#/components/schemas/{model}")
        components.update(body.pop("$defs"))
        components["ErrorOut"] = body
        for methods in schema["paths"].values():
            for operation in methods.values():
                _complete(operation)
        return schema


def _complete(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    for status, description in ERRORS.items():
        content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorOut"}}}
        responses[status] = {"description": description, "content": content}
    if 201 in responses:
        operation["parameters"] = [*operation.get("parameters", []), KEY_HEADER]


api = Door(
    title="Finetune Site",
    version="1",
    urls_namespace="api",
    docs_url=None,
    openapi_url=None,
    description="From documents to a tuned model. Send `Authorization: Bearer fts_…`; docs/api.md says the rest.",
)
register(api)
for room in ROOMS:
    api.add_router("", room)
