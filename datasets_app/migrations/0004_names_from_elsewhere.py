import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("auth", "__first__"),
        ("datasets_app", "0003_kinds_of_examples"),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name="example",
            name="decision_has_its_person",
        ),
        migrations.AddField(
            model_name="decision",
            name="by_name",
            field=models.CharField(blank=True, help_text="Who decided elsewhere and has no login here", max_length=200),
        ),
        migrations.AddField(
            model_name="decision",
            name="comment",
            field=models.TextField(blank=True),
        ),
        migrations.AddField(
            model_name="decision",
            name="place",
            field=models.CharField(blank=True, help_text="Where it was decided, if not here", max_length=40),
        ),
        migrations.AddField(
            model_name="decision",
            name="quality",
            field=models.PositiveSmallIntegerField(help_text="1 to 5", null=True),
        ),
        migrations.AddField(
            model_name="example",
            name="decided_name",
            field=models.CharField(blank=True, help_text="Who decided elsewhere and has no login here", max_length=200),
        ),
        migrations.AddField(
            model_name="exampletext",
            name="author_name",
            field=models.CharField(
                blank=True, help_text="Who wrote it elsewhere and has no login here", max_length=200
            ),
        ),
        migrations.AlterField(
            model_name="decision",
            name="by",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AlterField(
            model_name="exampletext",
            name="author",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddConstraint(
            model_name="decision",
            constraint=models.CheckConstraint(
                condition=models.Q(("by__isnull", False), models.Q(("by_name", ""), _negated=True), _connector="OR"),
                name="decision_names_its_person",
            ),
        ),
        migrations.AddConstraint(
            model_name="example",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("state", "draft"),
                    ("decided_by__isnull", False),
                    models.Q(("decided_name", ""), _negated=True),
                    _connector="OR",
                ),
                name="decision_has_its_person",
            ),
        ),
        migrations.AddConstraint(
            model_name="exampletext",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("author__isnull", False), models.Q(("author_name", ""), _negated=True), _connector="OR"
                ),
                name="text_has_its_author",
            ),
        ),
    ]
