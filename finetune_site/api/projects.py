"""Projects and who is in them."""

from datetime import datetime
from typing import Any

from ninja import Field, Query, Router, Schema, Status

from finetune_site.api.errors import ApiError
from finetune_site.api.fields import Key, Name, Text, example
from finetune_site.api.idempotency import once
from finetune_site.api.paging import Page, Paging, paged
from finetune_site.api.security import READ, WRITE, TokenRequest, fetch, projects_of
from finetune_site.projects import services
from finetune_site.projects.access import get_project, require_operator
from finetune_site.projects.models import Membership, Project
from training_app.services.use import use_of

router = Router(tags=["Projects"])


class ProjectIn(Schema):
    model_config = example(name="Pumps", description="Manuals of the Kestrel pumps")

    name: Name
    description: Text = ""


class ProjectOut(Schema):
    id: int
    name: str
    description: str
    created_at: datetime


class MemberOut(Schema):
    user: str
    role: str
    created_at: datetime


class LimitsIn(Schema):
    model_config = example(disk_limit_gb=200, device_hours_limit=None)

    disk_limit_gb: int | None = Field(None, ge=0, le=10**6)
    device_hours_limit: int | None = Field(None, ge=0, le=10**6)


class UseOut(Schema):
    """`device_seconds`: of this month (UTC), once for each device. A limit of null: there is none."""

    disk_bytes: int
    disk_limit_bytes: int | None
    device_seconds: float
    device_hours_limit: int | None


@router.get("/projects", auth=READ, response=Page[ProjectOut], operation_id="project_list")
def project_list(request: TokenRequest, paging: Query[Paging]) -> Any:
    """The projects you are in, by name."""
    return paged(projects_of(request).order_by("name", "pk"), paging, ProjectOut.from_orm)


@router.post("/projects", auth=WRITE, response={201: ProjectOut}, operation_id="project_create")
@once
def project_create(request: TokenRequest, body: ProjectIn) -> Status[Any]:
    """Make a project; you own it."""
    if request.auth.project_id:
        raise ApiError(403, "The token is bound to one project and makes no other.")
    made = services.create_project(actor=request.user, name=body.name, description=body.description)
    return Status(201, ProjectOut.from_orm(made))


@router.get("/projects/{int:pk}", auth=READ, response=ProjectOut, operation_id="project_read")
def project_read(request: TokenRequest, pk: Key) -> Any:
    """One project."""
    return ProjectOut.from_orm(fetch(request, get_project, pk))


@router.get("/projects/{int:pk}/members", auth=READ, response=Page[MemberOut], operation_id="member_list")
def member_list(request: TokenRequest, pk: Key, paging: Query[Paging]) -> Any:
    """Who is in it, and with which role."""
    members = fetch(request, get_project, pk).memberships.select_related("user").order_by("user__username")
    return paged(members, paging, _member)


@router.get("/projects/{int:pk}/use", auth=READ, response=UseOut, operation_id="project_use")
def project_use(request: TokenRequest, pk: Key) -> Any:
    """What it takes of the disk and, this month, of the devices, and how much it may."""
    return _use(fetch(request, get_project, pk))


@router.put("/projects/{int:pk}/limits", auth=WRITE, response=UseOut, operation_id="project_limits")
def project_limits(request: TokenRequest, pk: Key, body: LimitsIn) -> Any:
    """Set how much it may take; null: as much as the site lets any project take. For operators."""
    project = fetch(request, get_project, pk)
    require_operator(request.user, "set the limits of projects")
    services.set_limits(actor=request.user, project=project, **body.dict())
    return _use(fetch(request, get_project, pk))


def _use(project: Project) -> UseOut:
    use = use_of(project)
    return UseOut(
        disk_bytes=use.disk_bytes,
        disk_limit_bytes=use.disk_limit,
        device_seconds=use.device_seconds,
        device_hours_limit=use.device_limit,
    )


def _member(row: Membership) -> MemberOut:
    return MemberOut(user=row.user.username, role=row.role, created_at=row.created_at)
