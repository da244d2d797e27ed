"""What people and models write is shown as text, whatever it is: every column that can hold words holds a page's
attack here, and every page is opened."""

from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth.models import User
from django.db import models

from tests.browser.test_every_page import pages, session_of, things  # noqa: F401
from tests.browser.test_journey import problems  # noqa: F401

pytestmark = [pytest.mark.browser, pytest.mark.slow]
ATTACK = '<img src="x" onerror="window.hacked=1"><script>window.hacked=1</script>{{ 7|add:7 }}"\'>'
# Words of ours that lead to files and functions; nobody types them.
OURS = {
    "kind", "state", "queue", "url", "sha256", "format", "method", "preset", "provider", "base_url", "layout", "role",
    "origin", "outcome", "source", "generator", "split", "side", "media_type", "token_sha256", "location", "manner",
    "known_state", "verdict", "before", "kept", "standing", "error_code", "finish", "digest", "set", "hook_key",
    "sealed_token", "sealed_hook_secret", "unit",
}  # fmt: skip


def attack(value: Any) -> Any:
    """The same shape with the attack for every text in it."""
    if isinstance(value, dict):
        return {key: value[key] if key in ("role", "file", "sha256") else attack(value[key]) for key in value}
    if isinstance(value, list):
        return [attack(part) for part in value]
    return ATTACK if isinstance(value, str) else value


def poison() -> int:
    """Put the attack into every column of the site's own tables that can hold it; returns into how many."""
    count = 0
    for name in ("projects", "jobs", "datasets_app", "training_app"):
        for model in apps.get_app_config(name).get_models():
            for field in model._meta.concrete_fields:
                if field.name in OURS or field.choices or isinstance(field, models.ForeignKey):
                    continue
                if isinstance(field, models.CharField | models.TextField) and not field.primary_key:
                    room = field.max_length or len(ATTACK)
                    if room >= len(ATTACK):
                        count += model.objects.update(**{field.attname: ATTACK})
                elif isinstance(field, models.JSONField):
                    for row in model.objects.all():
                        model.objects.filter(pk=row.pk).update(**{field.attname: attack(getattr(row, field.attname))})
    return count


@pytest.mark.parametrize("person", ["operator", "viewer"])
def test_no_text_becomes_a_part_of_a_page(page, site, things, operator, person, problems):  # noqa: F811
    assert poison() > 20
    page.context.add_cookies([{**session_of(User.objects.get(username=person)), "url": site}])
    mine = pages(page, site, things, person)
    assert len(mine) >= (40 if person == "operator" else 1)
    seen = 0
    for address in mine:
        page.goto(address)
        assert page.locator('img[src="x"]').count() == 0, address
        assert page.evaluate("window.hacked") is None, address
        seen += "onerror" in page.content()
    assert seen, "no page shows the text"
