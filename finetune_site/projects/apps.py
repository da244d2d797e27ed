"""The app of projects, members and the audit trail."""

from django.apps import AppConfig


class ProjectsConfig(AppConfig):
    name = "finetune_site.projects"
    label = "projects"
