"""Every person's turns with a run become one saved conversation, each turn's two columns two answers."""

from django.db import migrations

LOST = "The site was updated before this was answered. Ask again."


def gather(apps, schema_editor):
    Conversation, ChatTurn, ChatAnswer = (
        apps.get_model("training_app", name) for name in ("Conversation", "ChatTurn", "ChatAnswer")
    )
    kept = {}
    for turn in ChatTurn.objects.order_by("pk").select_related("run").iterator(chunk_size=500):
        key = (turn.run_id, turn.user_id)
        if key not in kept:
            kept[key] = Conversation.objects.create(
                project_id=turn.run.project_id, user_id=turn.user_id, run_id=turn.run_id, is_saved=True
            )
        Conversation.objects.filter(pk=kept[key].pk).update(asked_at=turn.created_at)
        ChatTurn.objects.filter(pk=turn.pk).update(conversation=kept[key])
        is_done = turn.state == "done"
        for side in ("tuned", "base"):
            ChatAnswer.objects.create(
                turn_id=turn.pk,
                side=side,
                text=getattr(turn, f"{side}_answer"),
                seconds=getattr(turn, f"{side}_seconds"),
                state="done" if is_done else "failed",
                problem="" if is_done else LOST,
            )


class Migration(migrations.Migration):
    dependencies = [("training_app", "0011_conversations")]

    operations = [migrations.RunPython(gather, migrations.RunPython.noop)]
