"""`manage.py sample_project`: a project to try the site with, where there is none yet; `up` makes it at first."""

from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError

from datasets_app.services.sample import make_sample


class Command(BaseCommand):
    help = "Make a sample project where the site has no project yet."

    def handle(self, *args: Any, **options: Any) -> None:
        actor = User.objects.filter(is_superuser=True, is_active=True).order_by("pk").first()
        if actor is None:
            raise CommandError("The site has no operator yet. Make one: manage.py createsuperuser.")
        project = make_sample(actor=actor)
        self.stdout.write(f"  made “{project}”" if project else "  the site has projects already; none was made")
