"""Jobs for operators: what runs, waits and failed; stop and start again through the services, no field by hand."""

from collections.abc import Callable

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from finetune_site.jobs import services
from finetune_site.jobs.models import Job, JobState, Machine
from finetune_site.projects.access import require_operator


@admin.register(Job)
class JobAdmin(admin.ModelAdmin):
    list_display = ["pk", "title", "state", "label", "project", "owner", "started_at", "attempt", "queue", "host"]
    list_filter = ["state", "queue", "kind", "host"]
    search_fields = ["label", "project__name", "owner__username", "error_text"]
    list_select_related = ["project", "owner"]
    actions = ["cancel", "requeue", "run_next"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Job | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Job | None = None) -> bool:
        return False

    @admin.action(description="Stop")
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        self._each(request, queryset, services.cancel)

    @admin.action(description="Start again")
    def requeue(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        self._each(request, queryset, services.requeue)

    @admin.action(description="Run next")
    def run_next(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        self._each(request, queryset, services.run_next)

    def _each(self, request: HttpRequest, queryset: QuerySet[Job], act: Callable[..., None]) -> None:
        require_operator(request.user, "act on everybody's jobs")
        for job in queryset:
            try:
                act(actor=request.user, job=job)
                messages.success(request, f"{job}: done.")
            except services.JobError as error:
                messages.warning(request, f"{job}: {error}")


@admin.register(Machine)
class MachineAdmin(admin.ModelAdmin):
    """One that is gone for good may be deleted here; one that lives tells of itself again within seconds."""

    list_display = ["host", "is_alive", "seen_at", "does"]
    search_fields = ["host"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Machine | None = None) -> bool:
        return False

    @admin.display(description="alive", boolean=True)
    def is_alive(self, machine: Machine) -> bool:
        return not machine.is_silent

    @admin.display(description="does now")
    def does(self, machine: Machine) -> str:
        running = Job.objects.filter(state=JobState.RUNNING, host=machine.host).order_by("pk")
        return ", ".join(f"{job} ({job.queue})" for job in running) or "nothing"
