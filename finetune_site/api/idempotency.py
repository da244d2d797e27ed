"""`Idempotency-Key`: a request that is sent twice does its work once and is answered the same both times."""

import hashlib
import re
from collections.abc import Callable
from functools import wraps
from typing import Any

from django.db import connection, transaction
from ninja import Schema, Status

from finetune_site.api.errors import ApiError
from finetune_site.api.models import KeptAnswer
from finetune_site.api.security import TokenRequest

MAX_KEY = 200
KEY = re.compile(rf"[!-~]{{1,{MAX_KEY}}}")


def once(view: Callable[..., Status[Any]]) -> Callable[..., Status[Any]]:
    """For operations that start or create something. What fails is not kept: sent again it is tried again."""

    @wraps(view)
    def wrapper(request: TokenRequest, **arguments: Any) -> Status[Any]:
        key = request.headers.get("Idempotency-Key", "")
        if not key:
            return view(request, **arguments)
        if not KEY.fullmatch(key):
            raise ApiError(422, f"An Idempotency-Key has at most {MAX_KEY} characters of ASCII, and no space.")
        with transaction.atomic():
            _take_turn(request.auth.pk, key)
            return _kept(request, key) or _keep(request, key, view(request, **arguments))

    return wrapper


def _take_turn(token: int, key: str) -> None:
    """Of two requests that come at the same moment the second waits for the first one's end."""
    with connection.cursor() as cursor:
        cursor.execute("select pg_advisory_xact_lock(hashtextextended(%s, 1))", [f"{token}:{key}"])


def _kept(request: TokenRequest, key: str) -> Status[Any] | None:
    kept = KeptAnswer.objects.filter(token=request.auth, key=key).first()
    if kept is None:
        return None
    if kept.request_sha256 != _digest(request):
        raise ApiError(422, "This Idempotency-Key was used for another request. Choose a new one.")
    return Status(kept.status, kept.body)


def _keep(request: TokenRequest, key: str, answer: Status[Any]) -> Status[Any]:
    value: Schema = answer.value
    KeptAnswer.objects.create(
        token=request.auth,
        key=key,
        request_sha256=_digest(request),
        status=answer.status_code,
        body=value.model_dump(mode="json"),
    )
    return answer


def _digest(request: TokenRequest) -> str:
    digest = hashlib.sha256(f"{request.method} {request.get_full_path()}\n".encode())
    if request.content_type != "multipart/form-data":
        digest.update(request.body)
        return digest.hexdigest()
    for name, value in sorted(request.POST.items()):
        digest.update(f"{name}={value}\n".encode())
    for name, file in sorted(request.FILES.items()):
        digest.update(f"{name}={file.name}\n".encode())  # type: ignore[union-attr]  # one file a name
        for block in file.chunks():  # type: ignore[union-attr]
            digest.update(block)
        file.seek(0)  # type: ignore[union-attr]
    return digest.hexdigest()
