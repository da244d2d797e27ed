"""Checkpoints that nobody needs any more: looked at first, then deleted by rule."""

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.template.defaultfilters import filesizeformat
from django.views.decorators.http import require_http_methods

from finetune_site.projects.access import SignedInRequest, get_project
from finetune_site.projects.models import Role
from training_app.forms.runs import CleanUpForm
from training_app.services import housekeeping
from training_app.services.housekeeping import Rule


@require_http_methods(["GET", "POST"])
def run_clean_up(request: SignedInRequest, project: int) -> HttpResponse:
    """`?days=` and `?with_stopped=` say the rule; what it would delete is shown before anything is."""
    found = get_project(request.user, project, role=Role.TRAINER)
    form = CleanUpForm(request.POST or request.GET or {"days": Rule.days})
    rule = Rule(**form.cleaned_data) if form.is_valid() else None
    if rule and request.method == "POST":
        freed = housekeeping.clean_up(actor=request.user, project=found, rule=rule)
        messages.success(request, f"{filesizeformat(freed)} are free again. Results and weights are kept.")
        return redirect("run_list", found.pk)
    runs = housekeeping.removable(found, rule) if rule else []
    context = {
        "project": found,
        "section": "runs",
        "form": form,
        "runs": runs,
        "sum": sum(size for _, size in runs),
    }
    return render(request, "training/clean_up.html", context)
