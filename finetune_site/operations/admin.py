"""Accounts for operators: found, disabled and enabled; never deleted, as the trail names them."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import User
from django.db.models import QuerySet
from django.http import HttpRequest

from finetune_site.accounts import services
from finetune_site.projects.access import require_operator

admin.site.unregister(User)


@admin.register(User)
class AccountAdmin(UserAdmin):
    list_display = ["username", "email", "is_active", "is_superuser", "last_login", "date_joined"]
    list_filter = ["is_active", "is_superuser", "last_login"]
    search_fields = ["username", "email"]
    actions = ["disable", "enable", "password_link", "take_off_second_factor"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        # Disabling also ends sessions and is written down: it is an action, not a tick.
        return [*super().get_readonly_fields(request, obj), "is_active", "last_login", "date_joined"]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    @admin.action(description="Disable: cannot log in, sessions end", permissions=["change"])
    def disable(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        self._each(request, queryset, services.disable_user)

    @admin.action(description="Enable again", permissions=["change"])
    def enable(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        self._each(request, queryset, services.enable_user)

    @admin.action(description="Make a link to set the password", permissions=["change"])
    def password_link(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        def make(*, actor: User, user: User) -> None:
            link = request.build_absolute_uri(services.password_link(actor=actor, user=user))
            messages.info(request, f"For {user} alone, once, until somebody logs in as {user}: {link}")

        self._each(request, queryset, make)

    @admin.action(description="Take off the second factor: device and codes are lost", permissions=["change"])
    def take_off_second_factor(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        self._each(request, queryset, services.take_off_second_factor)

    def _each(self, request: HttpRequest, queryset: QuerySet[User], act: Callable[..., None]) -> None:
        require_operator(request.user, "change accounts")
        for user in queryset:
            try:
                act(actor=request.user, user=user)
                messages.success(request, f"{user}: done.")
            except services.AccountError as error:
                messages.warning(request, f"{user}: {error}")
