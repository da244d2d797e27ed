from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("training_app", "0012_turns_into_conversations")]

    operations = [
        migrations.RemoveIndex(
            model_name="chatturn",
            name="chat_waiting",
        ),
        migrations.RemoveField(
            model_name="chatturn",
            name="base_answer",
        ),
        migrations.RemoveField(
            model_name="chatturn",
            name="base_seconds",
        ),
        migrations.RemoveField(
            model_name="chatturn",
            name="run",
        ),
        migrations.RemoveField(
            model_name="chatturn",
            name="state",
        ),
        migrations.RemoveField(
            model_name="chatturn",
            name="tuned_answer",
        ),
        migrations.RemoveField(
            model_name="chatturn",
            name="tuned_seconds",
        ),
        migrations.RemoveField(
            model_name="chatturn",
            name="user",
        ),
        migrations.RemoveField(
            model_name="run",
            name="chat_job",
        ),
        migrations.AlterField(
            model_name="chatturn",
            name="conversation",
            field=models.ForeignKey(
                on_delete=models.deletion.CASCADE, related_name="turns", to="training_app.conversation"
            ),
        ),
    ]
