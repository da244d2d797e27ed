"""Projects for operators."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from finetune_site.projects.models import AuditEntry, Membership, Project
from finetune_site.projects.quotas import disk_limit


class ReadOnly(admin.ModelAdmin):
    """Looked at, not changed."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class MembershipInline(admin.TabularInline):
    model = Membership
    extra = 0
    can_delete = False


@admin.register(Project)
class ProjectAdmin(ReadOnly):
    """Members, names and deletion go over the project's own pages, where operators act as owners: each act there leaves
    its entry in the trail, and the last owner stays."""

    list_display = ["name", "disk", "disk_limit", "device_hours_limit", "use", "created_by", "created_at", "is_desk"]
    list_filter = ["is_desk", "needs_two", "created_at"]
    list_select_related = ["created_by"]
    search_fields = ["name", "memberships__user__username"]
    inlines = [MembershipInline]

    @admin.display(description="disk", ordering="disk_bytes")
    def disk(self, project: Project) -> str:
        return filesizeformat(project.disk_bytes)

    @admin.display(description="disk limit")
    def disk_limit(self, project: Project) -> str:
        limit = disk_limit(project)
        return "none" if limit is None else filesizeformat(limit)

    @admin.display(description="use and limits")
    def use(self, project: Project) -> SafeString:
        return format_html('<a href="{}">look, set limits</a>', reverse("project_use", args=[project.pk]))


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnly):
    list_display = ["at", "project", "actor", "verb", "subject"]
    list_select_related = ["project", "actor"]
    list_filter = ["verb", "project"]
    search_fields = ["subject", "actor__username"]
