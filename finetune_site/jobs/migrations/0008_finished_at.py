from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("jobs", "0007_ends_at")]

    operations = [
        migrations.AddIndex(
            model_name="job",
            index=models.Index(fields=["finished_at"], name="job_finished_at"),
        ),
    ]
