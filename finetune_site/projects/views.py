"""Projects, their members and their trail."""

import logging
from collections.abc import Callable

from django.conf import settings
from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from finetune_site.downloads import send_pieces
from finetune_site.projects import services, trail
from finetune_site.projects.access import SignedInRequest, get_project, role_of
from finetune_site.projects.forms import AddMemberForm, InviteForm, ProjectForm, RoleForm, TrailForm
from finetune_site.projects.models import AuditQuerySet, Invitation, Membership, Project, Role

logger = logging.getLogger(__name__)


@require_http_methods(["GET", "POST"])
def project_create(request: SignedInRequest) -> HttpResponse:
    form = ProjectForm(request.POST or None)
    if form.is_valid():
        return redirect(services.create_project(actor=request.user, **form.cleaned_data))
    return render(request, "projects/project_form.html", {"form": form, "section": "projects"})


@require_http_methods(["GET", "POST"])
def project_edit(request: SignedInRequest, pk: int) -> HttpResponse:
    project = get_project(request.user, pk, role=Role.OWNER)
    form = ProjectForm(request.POST or None, instance=Project.objects.get(pk=pk))
    if form.is_valid():
        services.edit_project(actor=request.user, project=project, **form.cleaned_data)
        return redirect(project)
    return render(request, "projects/project_form.html", {"form": form, "project": project})


@require_http_methods(["GET", "POST"])
def project_delete(request: SignedInRequest, pk: int) -> HttpResponse:
    """Ask for the name, then delete."""
    project = get_project(request.user, pk, role=Role.OWNER)
    if request.method == "POST":
        if request.POST.get("name", "").strip() == project.name:
            services.delete_project(actor=request.user, project=project)
            messages.success(request, f"The project {project.name} is deleted.")
            return redirect("home")
        messages.error(request, "The name does not match; nothing was deleted.")
    return render(request, "projects/project_delete.html", {"project": project})


@require_GET
def member_list(request: SignedInRequest, pk: int) -> HttpResponse:
    project = get_project(request.user, pk)
    return render(request, "projects/member_list.html", _member_context(request, project))


@require_http_methods(["GET", "POST"])
def member_add(request: SignedInRequest, pk: int) -> HttpResponse:
    project = get_project(request.user, pk, role=Role.OWNER)
    if request.method != "POST":  # the address of a page that was sent back, opened again
        return redirect("member_list", pk)
    form = AddMemberForm(request.POST, auto_id="add_%s")
    if not form.is_valid():
        return render(request, "projects/member_list.html", _member_context(request, project, add_form=form))
    user, role = form.cleaned_data["username"], Role(form.cleaned_data["role"])
    return _change(
        request,
        pk,
        lambda: services.add_member(actor=request.user, project=project, user=user, role=role),
        said=f"{user} is now a member, as {role}.",
    )


@require_http_methods(["GET", "POST"])
def member_invite(request: SignedInRequest, pk: int) -> HttpResponse:
    """Make an invitation and show its link, once; mail it too where the site can."""
    project = get_project(request.user, pk, role=Role.OWNER)
    if request.method != "POST":
        return redirect("member_list", pk)
    form = InviteForm(request.POST, auto_id="invite_%s")
    link = ""
    if form.is_valid():
        role = Role(form.cleaned_data["role"])
        invitation, token = services.invite(
            actor=request.user, project=project, email=form.cleaned_data["email"], role=role
        )
        link = request.build_absolute_uri(reverse("join", args=[token]))
        if settings.CAN_MAIL:
            try:
                services.mail_invitation(invitation, link)
            except OSError:
                logger.warning("an invitation could not be mailed", exc_info=True)
                messages.warning(request, "The mail could not be sent now. Pass the link on yourself.")
        form = InviteForm(auto_id="invite_%s")
    context = _member_context(request, project, invite_form=form)
    return render(request, "projects/member_list.html", {**context, "link": link})


@require_POST
def invitation_take_back(request: SignedInRequest, pk: int, invitation: int) -> HttpResponse:
    project = get_project(request.user, pk, role=Role.OWNER)
    found = get_object_or_404(Invitation, pk=invitation, project=project)
    return _change(
        request,
        pk,
        lambda: services.take_back_invitation(actor=request.user, invitation=found),
        said=f"The invitation of {found.email} is taken back; its link opens nothing any more.",
    )


@require_POST
def member_role(request: SignedInRequest, pk: int, member: int) -> HttpResponse:
    project = get_project(request.user, pk, role=Role.OWNER)
    membership = get_object_or_404(Membership, pk=member, project=project)
    form = RoleForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Choose one of the four roles.")
        return redirect("member_list", pk)
    user, role = membership.user, Role(form.cleaned_data["role"])
    return _change(
        request,
        pk,
        lambda: services.set_role(actor=request.user, project=project, user=user, role=role),
        said=f"{user} is now {role} here.",
    )


@require_POST
def member_remove(request: SignedInRequest, pk: int, member: int) -> HttpResponse:
    project = get_project(request.user, pk, role=Role.OWNER)
    membership = get_object_or_404(Membership, pk=member, project=project)
    return _change(
        request,
        pk,
        lambda: services.remove_member(actor=request.user, membership=membership),
        said=f"{membership.user} is no longer a member.",
    )


@require_GET
def audit_list(request: SignedInRequest, pk: int) -> HttpResponse:
    """The trail, newest first, as far as the filter lets it through."""
    project = get_project(request.user, pk)
    form = TrailForm(project, request.GET)
    page = Paginator(_trail(project, form), 50).get_page(request.GET.get("page"))
    context = {"project": project, "page": page, "form": form, "section": "audit", "formats": trail.FORMATS}
    return render(request, "projects/audit_list.html", context)


@require_GET
def audit_export(request: SignedInRequest, pk: int, format: str) -> StreamingHttpResponse:
    """The same entries as a file, oldest first."""
    project = get_project(request.user, pk)
    entries = _trail(project, TrailForm(project, request.GET)).order_by("at", "pk")
    pieces = trail.pieces(trail.written(entries, format))
    return send_pieces(pieces, f"trail-of-project-{pk}.{format}", content_type="application/octet-stream")


def _trail(project: Project, form: TrailForm) -> AuditQuerySet:
    entries = project.audit_entries.select_related("actor")
    return entries.matching(**form.cleaned_data) if form.is_valid() else entries.none()


def _change(request: SignedInRequest, project: int, change: Callable[[], object], *, said: str) -> HttpResponse:
    try:
        change()
        messages.success(request, said)
    except services.ProjectError as error:
        messages.error(request, str(error))
    return redirect("member_list", project)


def _member_context(
    request: SignedInRequest,
    project: Project,
    *,
    add_form: AddMemberForm | None = None,
    invite_form: InviteForm | None = None,
) -> dict[str, object]:
    is_owner = role_of(request.user, project) == Role.OWNER
    return {
        "project": project,
        "section": "members",
        "invitation_days": services.INVITATION_DAYS,
        "memberships": project.memberships.select_related("user"),
        "invitations": [each for each in project.invitations.all() if each.is_open()] if is_owner else [],
        "roles": Role.choices,
        "is_owner": is_owner,
        "add_form": add_form or AddMemberForm(auto_id="add_%s"),
        "invite_form": invite_form or InviteForm(auto_id="invite_%s"),
    }
