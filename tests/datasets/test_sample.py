"""The project with which a new site begins."""

import pytest
from django.core.management import CommandError, call_command

from datasets_app.models import Document
from finetune_site.projects.models import Project, Role
from tests.factories import run_all
from training_app.journey import journey

pytestmark = pytest.mark.django_db


def test_it_teaches_the_way_and_is_made_once(operator, client_of, capsys):
    call_command("sample_project")
    project = Project.objects.get()
    assert "being read" in str(journey(project, operator, Role.OWNER).next_step)
    run_all()
    assert Document.objects.get().pages > 1
    assert journey(project, operator, Role.OWNER).next_step.action == "Fill Facts of the mill"
    assert "Facts of the mill" in client_of(operator).get(project.get_absolute_url()).content.decode()
    call_command("sample_project")
    assert Project.objects.count() == 1 and "none was made" in capsys.readouterr().out


def test_it_needs_somebody_to_own_it():
    with pytest.raises(CommandError, match="createsuperuser"):
        call_command("sample_project")
    call_command("createsuperuser", interactive=False, username="operator", email="operator@example.org")
    call_command("sample_project")
    assert Project.objects.get().memberships.get().user.username == "operator"


def test_a_site_with_projects_is_left_alone(project, operator):
    call_command("sample_project")
    assert Project.objects.get() == project
