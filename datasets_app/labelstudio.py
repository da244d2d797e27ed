"""Client of a Label Studio server, over label-studio-sdk: returns dataclasses, raises `LabelStudioError` in words.

The SDK is loaded when a client is made, which only workers do. Its faults are worked round here: it retries writes that
may have been done, follows redirects, swallows a 404 while paging, gives one field in several shapes, and its errors
print headers with cookies, so none of them leaves this file.
"""

import base64
import binascii
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from finetune_site.lib.channel import parse_json

T = TypeVar("T")
Condition = tuple[str, str, str | int, str]  # column, operator, value and its type
TIMEOUT_SECONDS = 30.0
IMPORT_SECONDS = 120.0
PAGE = 100
ID_PAGE = 1000
ONLY_IDS: dict[str, Any] = {"include": "id", "fields": "task_only"}
MAX_TITLE = 50
HOOK_ACTIONS = (
    "ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED", "TASKS_DELETED",
    "PROJECT_UPDATED",
)  # fmt: skip
INSTALL = (
    "The workers lack the Label Studio client. Install the extra label-studio and, without its dependencies, "
    "label-studio-sdk."
)


class Trouble(StrEnum):
    """What kind of thing went wrong, for those who act on it."""

    UNREACHABLE = "unreachable"
    ADDRESS = "address"
    TOKEN = "token"  # noqa: S105
    GONE = "gone"
    REFUSED = "refused"
    UNCERTAIN = "uncertain"  # a write whose answer was lost: it may have been done


class LabelStudioError(Exception):
    """The message is for people: what happened and what to do."""

    def __init__(self, trouble: Trouble, message: str) -> None:
        super().__init__(message)
        self.trouble = trouble


@dataclass(frozen=True)
class Account:
    """Whose token it is, and the server's version."""

    email: str
    version: str


@dataclass(frozen=True)
class RemoteProject:
    id: int
    title: str
    description: str
    config: str
    tasks: int


@dataclass(frozen=True)
class Annotation:
    """What one person did with one task. `is_skipped`: they passed it over."""

    id: int
    by: int | None
    opened_at: datetime | None
    updated_at: datetime
    is_skipped: bool
    result: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class RemoteTask:
    """`has_draft`: somebody there has begun to annotate it and not sent it yet."""

    id: int
    data: dict[str, Any]
    updated_at: datetime | None
    annotations: tuple[Annotation, ...] = ()
    has_draft: bool = False

    @property
    def newest(self) -> Annotation | None:
        """The last word on it: the annotation that was touched last, of those that were not skipped."""
        return max(
            (entry for entry in self.annotations if not entry.is_skipped),
            key=lambda entry: (entry.updated_at, entry.id),
            default=None,
        )


@dataclass(frozen=True)
class Person:
    """A user of Label Studio."""

    email: str
    name: str


def token_problem(token: str) -> str:
    """Why a token can be no lasting one, told from itself; empty when it may be."""
    claims = _claims(token)
    if claims is None:
        return ""
    if claims.get("token_type") == "access":
        return (
            "This is an access token, which lasts five minutes. Copy a personal access token instead: in Label Studio "
            "under Account & Settings, Personal Access Token."
        )
    expires = claims.get("exp")
    if not isinstance(expires, int | float) or expires < datetime.now(UTC).timestamp():
        return "The token has expired. Make a new one in Label Studio under Account & Settings, Personal Access Token."
    return ""


class Client:
    """One server with one token. Every call raises `LabelStudioError` and nothing else."""

    def __init__(self, url: str, token: str) -> None:
        try:
            from label_studio_sdk import LabelStudio
            from label_studio_sdk.core.api_error import ApiError
        except ImportError as error:
            raise LabelStudioError(Trouble.REFUSED, INSTALL) from error
        self._url, self._api_error = url, ApiError
        if problem := token_problem(token):
            raise LabelStudioError(Trouble.TOKEN, problem)
        # The slash keeps a path of the address, which the SDK loses on its way to a personal token's exchange.
        base = url.rstrip("/") + "/"
        hooks: Any = {"response": [self._look_at]}
        self._http = httpx.Client(timeout=TIMEOUT_SECONDS, follow_redirects=False, event_hooks=hooks)
        self._sdk: Any = self._asked(  # its types do not hold what servers answer
            lambda: LabelStudio(base_url=base, api_key=token, max_retries=0, httpx_client=self._http)
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def account(self) -> Account:
        found = self._asked(lambda: self._sdk.users.whoami())
        version = self._asked(lambda: self._sdk.versions.get())
        return Account(found.email or "", str(_dict(version).get("release") or ""))

    def people(self) -> dict[int, Person]:
        """The server's users by their id."""
        users = self._asked(lambda: list(self._sdk.users.list()))
        return {user.id: Person(user.email or "", _full_name(user)) for user in users}

    def projects(self) -> list[RemoteProject]:
        return self._asked(lambda: [_project(found) for found in self._sdk.projects.list(page_size=PAGE)])

    def project(self, pk: int) -> RemoteProject:
        return self._asked(lambda: _project(self._sdk.projects.get(pk)))

    def create_project(self, *, title: str, description: str, config: str) -> RemoteProject:
        made = self._asked(
            lambda: self._sdk.projects.create(
                title=title[:MAX_TITLE].ljust(3, "."), description=description, label_config=config
            )
        )
        return self.project(made.id)

    def restore_config(self, pk: int, config: str) -> None:
        self._asked(lambda: self._sdk.projects.update(pk, label_config=config))

    def import_tasks(self, project: int, rows: Sequence[Mapping[str, Any]]) -> list[int]:
        """Add tasks and return their ids in the order of `rows`; `Trouble.UNCERTAIN` when the answer was lost."""
        answer = self._asked(
            lambda: self._sdk.projects.import_tasks(
                project,
                request=[{"data": dict(row)} for row in rows],
                return_task_ids=True,
                request_options={"timeout": IMPORT_SECONDS},
            ),
            is_write=True,
        )
        ids = list(answer.task_ids or [])
        if len(ids) != len(rows):  # servers that import in the background tell none
            raise LabelStudioError(Trouble.UNCERTAIN, "Label Studio did not tell the tasks it made.")
        return ids

    def tasks_of_push(self, project: int, push_id: str) -> dict[str, list[int]]:
        """The tasks that one push made there: the example's key to the ids of its tasks, oldest first."""
        found: dict[str, list[int]] = {}
        for task in self._tasks(project, [("data.push_id", "equal", push_id, "String")], page_size=ID_PAGE):
            found.setdefault(str(task.data.get("example", "")), []).append(task.id)
        return found

    def judged_since(self, project: int, since: datetime | None) -> Iterator[RemoteTask]:
        """Tasks with annotations or skips that were touched after `since`, or ever. One that has both comes twice."""
        for name in ("total", "cancelled"):
            conditions: list[Condition] = [(f"{name}_annotations", "greater", 0, "Number")]
            yield from self._tasks(project, conditions + _touched(since))

    def bare_since(self, project: int, since: datetime) -> set[int]:
        """Ids of the tasks without annotations that were touched after `since`: made, changed, or robbed of theirs."""
        conditions: list[Condition] = [("total_annotations", "equal", 0, "Number"), *_touched(since)]
        return {task.id for task in self._tasks(project, conditions, page_size=ID_PAGE, **ONLY_IDS)}

    def task(self, pk: int) -> RemoteTask:
        return self._asked(lambda: _task(self._sdk.tasks.get(str(pk))))

    def first_tasks(self, project: int, count: int) -> list[RemoteTask]:
        pager = self._asked(lambda: self._sdk.tasks.list(project=project, page_size=count, resolve_uri=False))
        return [_task(task) for task in (pager.items or [])][:count]

    def all_tasks(self, project: int) -> Iterator[RemoteTask]:
        """Every task with its annotations, page by page."""
        return self._tasks(project, [])

    def task_ids(self, project: int) -> set[int]:
        """The ids of all tasks there; `Trouble.UNCERTAIN` when fewer came than there are."""
        total = self.project(project).tasks
        found = {task.id for task in self._tasks(project, [], page_size=ID_PAGE, **ONLY_IDS)}
        if len(found) < total:
            raise LabelStudioError(Trouble.UNCERTAIN, "Label Studio told fewer tasks than it holds.")
        return found

    def update_task(self, pk: int, data: Mapping[str, Any]) -> datetime | None:
        """Put other data into a task; returns when that was, on the clock there."""
        return _time(_dict(self._asked(lambda: self._sdk.tasks.update(str(pk), data=dict(data)))).get("updated_at"))

    def delete_task(self, pk: int) -> None:
        self._asked(lambda: self._sdk.tasks.delete(str(pk)))

    def ensure_hook(self, project: int, *, url: str, secret_header: str, secret: str) -> int:
        """One webhook of ours on a project, whatever was there before; returns its id."""
        hooks = self._asked(lambda: self._sdk.webhooks.list(project=str(project)))
        ours = [hook for hook in hooks if hook.url == url]
        headers = {secret_header: secret}
        for hook in ours[1:]:
            self._asked(lambda pk=hook.id: self._sdk.webhooks.delete(pk))
        if ours and _dict(ours[0]).get("headers") == headers:
            return int(ours[0].id)
        if ours:
            self._asked(lambda: self._sdk.webhooks.delete(ours[0].id))
        made = self._asked(
            lambda: self._sdk.webhooks.create(
                url=url,
                project=project,
                headers=headers,
                send_payload=False,
                send_for_all_actions=False,
                actions=list(HOOK_ACTIONS),
            )
        )
        return int(made.id)

    def _tasks(
        self, project: int, conditions: list[Condition], *, page_size: int = PAGE, **options: Any
    ) -> Iterator[RemoteTask]:
        # By id instead of by page: a task that leaves the list meanwhile would move another one over the edge of its
        # page, unseen. Nor the SDK's own iterator: it takes a 404, a project deleted meanwhile, for the list's end.
        last = 0
        while True:
            query = _filter(*conditions, ("id", "greater", last, "Number"))
            given = {"project": project, "page_size": page_size, "resolve_uri": False, "query": query, **options}
            found = self._asked(lambda given=given: self._sdk.tasks.list(**given)).items or []
            for item in found:
                task = _task(item)
                last = max(last, task.id)
                yield task
            if len(found) < page_size:
                return

    def _look_at(self, response: httpx.Response) -> None:
        """What the SDK does not understand at a personal token's exchange is said here."""
        if response.is_redirect:
            raise self._forwarded(response.headers.get("location", ""))
        if response.status_code >= 500 and response.url.path.endswith("/api/token/refresh/"):
            raise self._broken(response.status_code, Trouble.UNREACHABLE)

    def _asked(self, call: Callable[..., T], *, is_write: bool = False) -> T:
        try:
            return call()
        except self._api_error as error:
            raise self._explained(error, is_write) from None  # its text holds headers with cookies
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise LabelStudioError(Trouble.UNREACHABLE, self._unreachable(error)) from None
        except httpx.HTTPError as error:
            trouble = Trouble.UNCERTAIN if is_write else Trouble.UNREACHABLE
            raise LabelStudioError(trouble, self._unreachable(error)) from None
        except (httpx.InvalidURL, ValueError):  # ValueError: an answer that is no JSON, or none the SDK understands
            raise LabelStudioError(Trouble.ADDRESS, self._not_label_studio()) from None

    def _explained(self, error: Any, is_write: bool) -> LabelStudioError:
        status, body = error.status_code, error.body
        detail = str(body.get("detail") or "") if isinstance(body, dict) else ""
        if status == 401:
            return LabelStudioError(Trouble.TOKEN, _token_sentence(detail))
        if status == 403:
            return LabelStudioError(Trouble.REFUSED, f"Label Studio does not allow this: {detail or 'no reason given'}")
        if status == 200:  # an answer that is not what was asked for
            return LabelStudioError(Trouble.ADDRESS, self._not_label_studio())
        if status == 404 and isinstance(body, dict):
            return LabelStudioError(Trouble.GONE, "Label Studio does not have it any more.")
        if status == 404:
            return LabelStudioError(Trouble.ADDRESS, self._not_label_studio())
        if status is not None and status >= 500:
            return self._broken(status, Trouble.UNCERTAIN if is_write else Trouble.UNREACHABLE)
        told = _validation(body) or detail or f"HTTP {status}"
        return LabelStudioError(Trouble.REFUSED, f"Label Studio refuses it: {told}"[:500])

    def _forwarded(self, location: str) -> LabelStudioError:
        place = urlsplit(location).netloc or "another address"
        forwarded = f"{self._url} forwards to {place}, which is not followed. "
        return LabelStudioError(Trouble.ADDRESS, forwarded + "Enter the address that answers itself.")

    def _broken(self, status: int, trouble: Trouble) -> LabelStudioError:
        return LabelStudioError(trouble, f"Label Studio at {self._url} has an error of its own (HTTP {status}).")

    def _unreachable(self, error: Exception) -> str:
        reason = "does not answer in time" if isinstance(error, httpx.TimeoutException) else "cannot be reached"
        return f"Label Studio at {self._url} {reason}. See that it runs and that this machine reaches the address."

    def _not_label_studio(self) -> str:
        return f"What answers at {self._url} is not Label Studio. Check the address, with its path if it has one."


def _token_sentence(detail: str) -> str:
    made = "An operator makes a new one in Label Studio under Account & Settings and enters it in the administration."
    if "legacy token authentication has been disabled" in detail:
        return (
            "The organisation in Label Studio does not allow legacy tokens. An operator makes a personal access token "
            "there under Account & Settings, or allows legacy tokens under Organization, Access Token Settings."
        )
    if "blacklisted" in detail:
        return f"The token was revoked. {made}"
    if "expired" in detail:
        return f"The token has expired. {made}"
    return f"Label Studio does not know the token. Was it copied whole? {made}"


def _claims(token: str) -> dict[str, Any] | None:
    """What a JSON web token says of itself; None for a legacy token, which is none."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        found = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _filter(*conditions: Condition) -> str:
    """A query for tasks that meet every condition, by their ids."""
    items = [
        {"filter": f"filter:tasks:{column}", "operator": operator, "value": value, "type": kind}
        for column, operator, value, kind in conditions
    ]
    return json.dumps({"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]})


def _touched(since: datetime | None) -> list[Condition]:
    if since is None:
        return []
    return [("updated_at", "greater", f"{since.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}", "Datetime")]


def _dict(found: Any) -> dict[str, Any]:
    return found if isinstance(found, dict) else dict(found.dict())


def _storable(found: Any) -> Any:
    """What people typed there, without the NUL character that Postgres does not take."""
    return parse_json(json.dumps(found))


def _project(found: Any) -> RemoteProject:
    told = _dict(found)
    return RemoteProject(
        id=told["id"],
        title=told.get("title") or "",
        description=told.get("description") or "",
        config=told.get("label_config") or "",
        tasks=told.get("task_number") or 0,
    )


def _task(found: Any) -> RemoteTask:
    told = _dict(found)
    return RemoteTask(
        id=int(told["id"]),
        data=_storable(told["data"]) if isinstance(told.get("data"), dict) else {},
        updated_at=_time(told.get("updated_at")),
        has_draft=bool(told.get("draft_exists")),
        annotations=tuple(map(_annotation, told.get("annotations") or [])),
    )


def _annotation(found: Any) -> Annotation:
    told = _dict(found)
    by, result, made_at = told.get("completed_by"), told.get("result"), _time(told.get("created_at"))
    return Annotation(
        id=int(told["id"]),
        by=by.get("id") if isinstance(by, dict) else by,
        opened_at=made_at and made_at - timedelta(seconds=told.get("lead_time") or 0),
        updated_at=_time(told.get("updated_at")) or datetime.min.replace(tzinfo=UTC),
        is_skipped=bool(told.get("was_cancelled")),
        result=[_storable(_dict(entry)) for entry in result] if isinstance(result, list) else [],
    )


def _time(told: Any) -> datetime | None:
    if isinstance(told, str):
        told = datetime.fromisoformat(told)
    return told if isinstance(told, datetime) else None


def _full_name(user: Any) -> str:
    name = " ".join(part for part in (user.first_name, user.last_name) if part)
    return name or user.username or user.email or f"user {user.id}"


def _validation(body: Any) -> str:
    """The reasons of a refusal, as Label Studio lists them by field."""
    errors = body.get("validation_errors") if isinstance(body, dict) else None
    if not isinstance(errors, dict):
        return ""
    return " ".join(str(line) for lines in errors.values() for line in (lines if isinstance(lines, list) else [lines]))
