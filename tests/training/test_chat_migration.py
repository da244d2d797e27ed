"""What people asked before conversations had several turns is still theirs."""

import pytest
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

BEFORE, AFTER = "0010_publishing", "0013_conversations_alone"


def migrate(target: str):
    executor = MigrationExecutor(connection)
    executor.migrate([("training_app", target)])
    return executor.loader.project_state([("training_app", target)]).apps.get_model


@pytest.fixture
def latest(transactional_db):
    """The newest migration, put back at the end."""
    executor = MigrationExecutor(connection)
    yield
    MigrationExecutor(connection).migrate(executor.loader.graph.leaf_nodes())


def test_old_turns_become_saved_conversations(latest, project, viewer, trainer, version, bundled):
    get = migrate(BEFORE)
    fields = {"project_id": project.pk, "version_id": version.pk, "method": "lora", "preset": "quick", "config": {}}
    run = get("training_app", "Run").objects.create(name="R", base_id=bundled.pk, created_by_id=trainer.pk, **fields)
    turns = get("training_app", "ChatTurn").objects
    for person, prompt, state in ((viewer, "First?", "done"), (trainer, "Mine?", "done"), (viewer, "Then?", "waiting")):
        turns.create(
            run=run, user_id=person.pk, prompt=prompt, state=state, base_answer="B", tuned_answer="T", base_seconds=1.5
        )
    talks = migrate(AFTER)("training_app", "Conversation").objects.order_by("pk")
    told = [
        (talk.user_id, talk.is_saved, [
            (turn.prompt, [(answer.side, answer.text, answer.state, answer.seconds) for answer in turn.answers.all()])
            for turn in talk.turns.order_by("pk")
        ])
        for talk in talks
    ]  # fmt: skip
    done = [("tuned", "T", "done", None), ("base", "B", "done", 1.5)]
    lost = [("tuned", "T", "failed", None), ("base", "B", "failed", 1.5)]
    assert told == [
        (viewer.pk, True, [("First?", done), ("Then?", lost)]),
        (trainer.pk, True, [("Mine?", done)]),
    ]
