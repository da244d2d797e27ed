"""The app of notices: what happened that a person would want to hear of, in the page, by mail, by webhook."""

from django.apps import AppConfig


class NotificationsConfig(AppConfig):
    name = "finetune_site.notifications"
    label = "notifications"
