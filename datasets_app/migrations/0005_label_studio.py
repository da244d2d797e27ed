import uuid

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("auth", "__first__"),
        ("datasets_app", "0004_names_from_elsewhere"),
        ("jobs", "0007_ends_at"),
    ]

    operations = [
        migrations.CreateModel(
            name="Conflict",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("content", models.JSONField(help_text="Theirs")),
                ("verdict", models.CharField(max_length=10)),
                ("reason", models.CharField(blank=True, max_length=300)),
                ("comment", models.TextField(blank=True)),
                ("quality", models.PositiveSmallIntegerField(null=True)),
                ("by_name", models.CharField(blank=True, max_length=200)),
                ("at", models.DateTimeField(default=django.utils.timezone.now)),
                ("resolved_at", models.DateTimeField(null=True)),
                (
                    "kept",
                    models.CharField(
                        blank=True, choices=[("ours", "the portal's"), ("theirs", "Label Studio's")], max_length=6
                    ),
                ),
            ],
            options={
                "ordering": ["pk"],
            },
        ),
        migrations.CreateModel(
            name="LabelStudioLink",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("in step", "in step"),
                            ("waiting", "waiting for Label Studio"),
                            ("paused", "needs a person"),
                        ],
                        default="in step",
                        max_length=10,
                    ),
                ),
                ("problem", models.TextField(blank=True)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("hook_key", models.UUIDField(default=uuid.uuid4, editable=False, unique=True)),
                ("sealed_hook_secret", models.TextField(editable=False)),
                (
                    "restores_config",
                    models.BooleanField(default=False, help_text="Put our labelling config back at the next sync"),
                ),
                (
                    "is_hinted",
                    models.BooleanField(default=False, help_text="Something changed there since the sync began"),
                ),
                (
                    "looks_whole",
                    models.BooleanField(default=False, help_text="Something may be gone there: compare everything"),
                ),
                ("synced_at", models.DateTimeField(null=True)),
            ],
        ),
        migrations.CreateModel(
            name="LabelStudioProject",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("layout", models.CharField(max_length=12)),
                ("remote_id", models.PositiveIntegerField(null=True)),
                (
                    "config",
                    models.CharField(
                        blank=True, help_text="Fingerprint of the labelling config as sent", max_length=64
                    ),
                ),
                (
                    "seen_until",
                    models.DateTimeField(help_text="The latest change there that was taken over", null=True),
                ),
            ],
            options={
                "ordering": ["pk"],
            },
        ),
        migrations.CreateModel(
            name="LabelStudioSending",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "chosen",
                    models.JSONField(
                        default=dict, help_text="The filter of the examples, as the list of examples takes it"
                    ),
                ),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("counts", models.JSONField(default=dict)),
            ],
            options={
                "ordering": ["-pk"],
            },
        ),
        migrations.CreateModel(
            name="LabelStudioServer",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=80, unique=True)),
                (
                    "url",
                    models.URLField(help_text="Where the workers reach it: http://host:8080", verbose_name="address"),
                ),
                (
                    "browser_url",
                    models.URLField(
                        blank=True, help_text="Where browsers reach it, if elsewhere", verbose_name="address for people"
                    ),
                ),
                (
                    "portal_url",
                    models.URLField(
                        blank=True,
                        help_text="Where Label Studio and its people reach this site. "
                        "Empty: decisions come back by schedule alone.",
                        verbose_name="this site's address",
                    ),
                ),
                ("sealed_token", models.TextField(default="", editable=False)),
                (
                    "state",
                    models.CharField(
                        choices=[("untried", "not tried yet"), ("working", "working"), ("failing", "failing")],
                        default="untried",
                        editable=False,
                        max_length=10,
                    ),
                ),
                ("problem", models.TextField(blank=True, editable=False)),
                (
                    "account",
                    models.CharField(blank=True, editable=False, help_text="Whose token it is", max_length=254),
                ),
                ("version", models.CharField(blank=True, editable=False, max_length=40)),
                ("checked_at", models.DateTimeField(editable=False, null=True)),
            ],
            options={
                "verbose_name": "Label Studio server",
                "ordering": ["name"],
            },
        ),
        migrations.CreateModel(
            name="LabelStudioTask",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("push_id", models.UUIDField()),
                ("remote_id", models.PositiveBigIntegerField(null=True)),
                ("text_sent_at", models.DateTimeField(help_text="When another text was put into the task", null=True)),
                ("known_state", models.CharField(help_text="The example's state both sides know", max_length=10)),
                (
                    "told_state",
                    models.CharField(
                        blank=True, help_text="What the task says of the portal's decision", max_length=200
                    ),
                ),
                (
                    "outcome",
                    models.CharField(
                        choices=[
                            ("open", "open"),
                            ("skipped", "skipped there"),
                            ("decided", "decided there"),
                            ("unclear", "cannot be used"),
                            ("conflict", "changed on both sides"),
                            ("gone", "deleted there"),
                        ],
                        default="open",
                        max_length=10,
                    ),
                ),
                ("problem", models.CharField(blank=True, max_length=300)),
                ("annotation_id", models.PositiveBigIntegerField(null=True)),
                ("annotated_at", models.DateTimeField(null=True)),
                ("annotators", models.PositiveSmallIntegerField(default=0)),
                (
                    "agree",
                    models.BooleanField(
                        help_text="Whether all annotators gave one verdict; None with fewer than two", null=True
                    ),
                ),
            ],
            options={
                "ordering": ["pk"],
            },
        ),
        migrations.AddField(
            model_name="conflict",
            name="by",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddField(
            model_name="conflict",
            name="resolved_by",
            field=models.ForeignKey(
                null=True, on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddField(
            model_name="conflict",
            name="text",
            field=models.ForeignKey(
                help_text="Ours when it was found",
                on_delete=django.db.models.deletion.RESTRICT,
                related_name="+",
                to="datasets_app.exampletext",
            ),
        ),
        migrations.AddField(
            model_name="labelstudiolink",
            name="created_by",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddField(
            model_name="labelstudiolink",
            name="dataset",
            field=models.OneToOneField(
                on_delete=django.db.models.deletion.CASCADE, related_name="label_studio", to="datasets_app.dataset"
            ),
        ),
        migrations.AddField(
            model_name="labelstudiolink",
            name="sync_job",
            field=models.OneToOneField(
                null=True, on_delete=django.db.models.deletion.SET_NULL, related_name="label_studio_link", to="jobs.job"
            ),
        ),
        migrations.AddField(
            model_name="labelstudioproject",
            name="link",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="projects", to="datasets_app.labelstudiolink"
            ),
        ),
        migrations.AddField(
            model_name="labelstudiosending",
            name="created_by",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="+", to=settings.AUTH_USER_MODEL
            ),
        ),
        migrations.AddField(
            model_name="labelstudiosending",
            name="job",
            field=models.OneToOneField(
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="label_studio_sending",
                to="jobs.job",
            ),
        ),
        migrations.AddField(
            model_name="labelstudiosending",
            name="link",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="sendings", to="datasets_app.labelstudiolink"
            ),
        ),
        migrations.AddField(
            model_name="labelstudiolink",
            name="server",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT, related_name="links", to="datasets_app.labelstudioserver"
            ),
        ),
        migrations.AddField(
            model_name="labelstudiotask",
            name="example",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE,
                related_name="label_studio_tasks",
                to="datasets_app.example",
            ),
        ),
        migrations.AddField(
            model_name="labelstudiotask",
            name="project",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="tasks", to="datasets_app.labelstudioproject"
            ),
        ),
        migrations.AddField(
            model_name="labelstudiotask",
            name="text",
            field=models.ForeignKey(
                help_text="The text both sides know",
                on_delete=django.db.models.deletion.RESTRICT,
                related_name="+",
                to="datasets_app.exampletext",
            ),
        ),
        migrations.AddField(
            model_name="conflict",
            name="task",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.CASCADE, related_name="conflicts", to="datasets_app.labelstudiotask"
            ),
        ),
        migrations.AddConstraint(
            model_name="labelstudioproject",
            constraint=models.UniqueConstraint(fields=("link", "layout"), name="one_project_per_layout"),
        ),
        migrations.AddIndex(
            model_name="labelstudiotask",
            index=models.Index(fields=["project", "outcome"], name="label_studio_outcome"),
        ),
        migrations.AddConstraint(
            model_name="labelstudiotask",
            constraint=models.UniqueConstraint(fields=("project", "example"), name="one_task_per_example"),
        ),
        migrations.AddConstraint(
            model_name="conflict",
            constraint=models.UniqueConstraint(
                condition=models.Q(("resolved_at", None)), fields=("task",), name="one_open_conflict"
            ),
        ),
    ]
