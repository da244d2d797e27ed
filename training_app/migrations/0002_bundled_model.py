"""The model that comes with the site: a machine without a hub can train."""

from typing import Any

from django.db import migrations


def add(apps: Any, schema_editor: Any) -> None:
    apps.get_model("training_app", "BaseModel").objects.get_or_create(
        name="smollm2:135m",
        defaults={"title": "SmolLM2 135M Instruct", "source": "bundled", "licence": "Apache-2.0"},
    )


class Migration(migrations.Migration):
    dependencies = [("training_app", "0001_initial")]

    operations = [migrations.RunPython(add, migrations.RunPython.noop)]
