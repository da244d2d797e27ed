"""Quotes that were kept so far were looked for and found before they were: they stand in their passage."""

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def note_support(apps: Apps, editor: BaseDatabaseSchemaEditor) -> None:
    examples = apps.get_model("datasets_app", "Example")._default_manager.exclude(quote="")
    examples.filter(chunk__isnull=False).update(support="verified")
    examples.filter(chunk=None, support="").update(support="stale")


class Migration(migrations.Migration):
    dependencies = [("datasets_app", "0019_recipes_and_evidence")]
    operations = [migrations.RunPython(note_support, migrations.RunPython.noop)]
