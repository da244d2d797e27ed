"""Schemathesis: requests made from the OpenAPI document, against the running site.

No error of ours, and every answer is as the document says.
"""

from collections import Counter
from typing import Any

import httpx
import pytest
import schemathesis
from django.contrib.auth.models import User
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from finetune_site.api.models import Scope
from finetune_site.api.services import make_token
from tests.site.test_access import things  # noqa: F401  a fixture

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
LEAST = 1000
EACH = 8
STREAMS = ("job_events", "run_events")  # what waits is a stream that does not end
OF = {  # whose keys an address takes, by the words of its path
    "projects": "project", "documents": "document", "datasets": "dataset", "examples": "example", "versions": "version",
    "runs": "run", "evaluations": "evaluation", "jobs": "job", "exports": "export", "models": "published model",
    "publications": "publication", "conversations": "conversation",
    "generations": "generation", "recipes": "recipe",
}  # fmt: skip


class Tried:
    """What was sent and how it was answered."""

    def __init__(self, site: str, things: dict[str, dict[str, int]]) -> None:  # noqa: F811
        self.site, self.things = site, things
        self.statuses: Counter[int] = Counter()
        self.failures: list[str] = []

    def try_all(self, document: dict[str, Any], secret: str, only: str = "") -> None:
        for result in schemathesis.openapi.from_dict(document).get_all_operations():
            operation = result.ok()
            name = operation.definition.raw["operationId"]
            if name not in STREAMS and only in ("", name):
                self._try(operation, secret)

    def _try(self, operation: Any, secret: str) -> None:
        of = OF.get(operation.path.split("/")[3], "")

        @given(case=operation.as_strategy())
        @settings(
            max_examples=EACH, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        def send(case: Any) -> None:
            if of and self.statuses.total() % 4:  # a key at random is hardly ever one that is there
                case.path_parameters["pk"] = self.things[of]["pk"]
            case.headers = {**(case.headers or {}), "Authorization": f"Bearer {secret}"}
            response = case.call(base_url=self.site, timeout=60)
            self.statuses[response.status_code] += 1
            try:
                case.validate_response(response, checks=CHECKS)
            except* Exception as errors:
                self.failures.extend(f"{operation.label}: {error}"[:2000] for error in errors.exceptions)

        send()


def test_no_request_breaks_it_and_every_answer_is_as_described(site, things, operator):  # noqa: F811
    document, tried = httpx.get(f"{site}/api/v1/openapi.json").json(), Tried(site, things)
    for person in (operator, User.objects.get(username="viewer")):
        tried.try_all(document, make_token(actor=person, name="T", scopes=Scope.values)[1])
    assert not tried.failures, "\n\n".join(tried.failures[:5])
    assert tried.statuses.total() >= LEAST, tried.statuses
    assert {200, 201, 404, 409, 422} <= set(tried.statuses), "the requests reached what is behind the door"


def test_a_document_that_promises_something_else_is_found_out(site, things, operator):  # noqa: F811
    document, tried = httpx.get(f"{site}/api/v1/openapi.json").json(), Tried(site, things)
    document["components"]["schemas"]["ProjectOut"]["required"].append("never")
    tried.try_all(document, make_token(actor=operator, name="T", scopes=Scope.values)[1], only="project_read")
    assert tried.failures and "never" in tried.failures[0]
