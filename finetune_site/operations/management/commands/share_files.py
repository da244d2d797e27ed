"""`manage.py share_files`: put all files of this machine into the bucket, once, when a site with files gets one."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from finetune_site import bucket
from finetune_site.operations.sharing import send_all


class Command(BaseCommand):
    help = "Put all documents, versions, runs and base models of this machine into the bucket (FINETUNE_S3_BUCKET)."

    def handle(self, *args: Any, **options: Any) -> None:
        if not bucket.is_on():
            raise CommandError("There is no bucket. Set FINETUNE_S3_BUCKET first.")
        self.stdout.write(f"{send_all()} files and folders are in the bucket now.")
