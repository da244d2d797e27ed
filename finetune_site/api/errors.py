"""The one shape in which the API says that something went wrong, and which error becomes which status."""

import logging

from django.core.exceptions import PermissionDenied
from django.forms import BaseForm
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from ninja import NinjaAPI, Schema
from ninja.errors import AuthenticationError, HttpError, ValidationError

from datasets_app.services.documents import DocumentError
from datasets_app.services.errors import DatasetError
from finetune_site.bucket import BucketError
from finetune_site.downloads import FileAwayError
from finetune_site.jobs.services import JobError
from finetune_site.lib.channel import InputError
from finetune_site.lib.logs import facts
from finetune_site.projects.services import ProjectError
from training_app.services.runs import TrainingError

logger = logging.getLogger(__name__)
CODES = {
    400: "bad_request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "too_large",
    422: "invalid",
    429: "too_many",
    500: "internal",
    503: "unavailable",
}
# What a person can mend: the services' own sentence goes out as it is.
MENDABLE = (ProjectError, DocumentError, DatasetError, TrainingError, JobError, InputError)


class ErrorBody(Schema):
    code: str
    message: str
    fields: dict[str, str] | None = None


class ErrorOut(Schema):
    """`fields` names what was typed wrong; it is there with status 422 alone."""

    error: ErrorBody


class ApiError(Exception):
    """Answered with `status` and its sentence."""

    def __init__(self, status: int, message: str, fields: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.fields = status, message, fields


def answer(status: int, message: str, fields: dict[str, str] | None = None) -> JsonResponse:
    error: dict[str, object] = {"code": CODES.get(status, "error"), "message": message}
    response = JsonResponse({"error": {**error, "fields": fields} if fields else error}, status=status)
    if status == 401:
        response["WWW-Authenticate"] = "Bearer"
    return response


def check(form: BaseForm) -> None:
    """Refuse what a page's form refuses, field by field."""
    if not form.is_valid():
        fields = {
            ("body" if name == "__all__" else name): " ".join(map(str, told)) for name, told in form.errors.items()
        }
        raise ApiError(422, "Some of what was sent cannot be used.", fields)


def register(api: NinjaAPI) -> None:
    """Give every error of an operation its answer."""

    @api.exception_handler(ApiError)
    def told(request: HttpRequest, error: ApiError) -> HttpResponse:
        return answer(error.status, error.message, error.fields)

    @api.exception_handler(AuthenticationError)
    def unknown(request: HttpRequest, error: AuthenticationError) -> HttpResponse:
        return answer(401, "Send a token that is valid: Authorization: Bearer fts_…")

    @api.exception_handler(Http404)
    def hidden(request: HttpRequest, error: Http404) -> HttpResponse:
        return answer(404, "There is nothing here that you may see.")

    @api.exception_handler(PermissionDenied)
    def refused(request: HttpRequest, error: PermissionDenied) -> HttpResponse:
        return answer(403, str(error) or "You may not do this.")

    @api.exception_handler(HttpError)
    def bad(request: HttpRequest, error: HttpError) -> HttpResponse:
        return answer(error.status_code, str(error))

    @api.exception_handler(ValidationError)
    def invalid(request: HttpRequest, error: ValidationError) -> HttpResponse:
        fields = {".".join(str(part) for part in found["loc"][1:]) or "body": found["msg"] for found in error.errors}
        return answer(422, "Some of what was sent cannot be used.", fields)

    api.add_exception_handler(FileAwayError, _away)
    api.add_exception_handler(BucketError, _away)
    for kind in MENDABLE:
        api.add_exception_handler(kind, _mendable)

    @api.exception_handler(Exception)
    def broken(request: HttpRequest, error: Exception) -> HttpResponse:
        logger.error("API error", exc_info=error)
        return answer(500, f"Something went wrong here. Tell the operator this reference: {facts().get('request_id')}.")


def _away(request: HttpRequest, error: Exception | type[Exception]) -> HttpResponse:
    return answer(503, str(error))


def _mendable(request: HttpRequest, error: Exception | type[Exception]) -> HttpResponse:
    return answer(409, str(error))
