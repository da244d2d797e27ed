"""The project with which a new site begins: somebody who has no documents at hand can walk the whole way at once."""

from pathlib import Path

from django.conf import settings
from django.contrib.auth.models import User

from datasets_app.services import datasets, documents
from finetune_site.projects.models import Project
from finetune_site.projects.services import create_project

MANUAL = Path(settings.BASE_DIR) / "datasets_app" / "samples" / "kestrel-40-manual.pdf"
BLOCK_BYTES = 2**20


def make_sample(*, actor: User) -> Project | None:
    """A project with a manual to read and a dataset to fill; None where the site has projects already."""
    if Project.objects.filter(is_desk=False).exists():
        return None
    project = create_project(
        actor=actor,
        name="Sample: the Kestrel mill",
        description="The manual of an invented machine, which no model can know. Walk the line from left to right: "
        "make examples, approve some, seal them, train, and ask both models. Delete it when you have seen enough.",
    )
    with MANUAL.open("rb") as stream:
        blocks = iter(lambda: stream.read(BLOCK_BYTES), b"")
        documents.upload_document(actor=actor, project=project, name=MANUAL.name, blocks=blocks)
    datasets.create_dataset(
        actor=actor, project=project, name="Facts of the mill", description="Questions and answers from the manual."
    )
    return project
