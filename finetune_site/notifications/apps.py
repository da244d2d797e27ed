"""The app of what people are told: in the page, by e-mail and by webhook."""

from django.apps import AppConfig


class NotificationsConfig(AppConfig):
    name = "finetune_site.notifications"
    label = "notifications"
