"""Projects for operators."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from finetune_site.projects.models import AuditEntry, Membership, Project


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

    list_display = ["name", "created_by", "created_at", "is_desk"]
    list_select_related = ["created_by"]
    search_fields = ["name", "memberships__user__username"]
    inlines = [MembershipInline]


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnly):
    list_display = ["at", "project", "actor", "verb", "subject"]
    list_select_related = ["project", "actor"]
    list_filter = ["verb", "project"]
    search_fields = ["subject", "actor__username"]
