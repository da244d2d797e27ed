"""What a project takes of the site, and how much it may."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_http_methods

from finetune_site.projects.access import SignedInRequest, get_project, has_role, require_operator
from finetune_site.projects.forms import LimitsForm
from finetune_site.projects.models import Role
from finetune_site.projects.services import set_limits
from training_app.services.use import use_of


@require_http_methods(["GET", "POST"])
def project_use(request: SignedInRequest, pk: int) -> HttpResponse:
    """For all members; operators set the limits."""
    project = get_project(request.user, pk)
    typed = {"disk_limit_gb": project.disk_limit_gb, "device_hours_limit": project.device_hours_limit}
    form = LimitsForm(request.POST or None, initial=typed)
    if request.method == "POST":
        require_operator(request.user, "set the limits of projects")
        if form.is_valid():
            set_limits(actor=request.user, project=project, **form.cleaned_data)
            messages.success(request, "The limits are kept.")
            return redirect("project_use", pk)
    context = {
        "project": project,
        "use": use_of(project),
        "form": form,
        "may_clean_up": has_role(request.user, project, Role.TRAINER),
    }
    return render(request, "training/use.html", context)
