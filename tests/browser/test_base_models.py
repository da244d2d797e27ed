"""The base models in a browser: found by a filter, added with a click, pointed at a repository, chosen for a run."""

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from tests.browser.test_journey import problems  # noqa: F401

pytestmark = [pytest.mark.browser]
HELD = {"parameters": "", "quantization": "Q4_K_M", "family": "llama", "is_remote": False}


@pytest.fixture
def held(bundled, base):
    """An Ollama as a worker met it."""
    from datasets_app.models import ModelServer
    from training_app.models import OllamaState

    server = ModelServer.objects.create(name="Big box", provider="ollama", base_url="http://127.0.0.1:9", offered="")
    names = ("llama3.2:3b", "gemma3:4b", "mistral:7b", "in-house:8b", "smollm2:135m", "deepseek-r1:8b", "tiny:1")
    held = [{**HELD, "name": name, "digest": f"{n:x}" * 64, "size": 2e9} for n, name in enumerate(names)]
    OllamaState.objects.create(server=server, held=held, seen_at=timezone.now(), asked_at=timezone.now())
    line = {"ollama": "28", "weights": "2", "ok": False, "what": "layers"}
    base.server, base.digest, base.compared_at = server, "6" * 64, timezone.now()
    base.shapes = [line, {**line, "what": "width", "ollama": "64", "weights": "64", "ok": True}]
    base.save()


def test_an_operator_makes_a_model_of_ollama_a_base(page, site, held, operator, project, version, shoot, problems):  # noqa: F811
    page.goto(f"{site}/login")
    page.get_by_label("Username or e-mail").fill("operator")
    page.get_by_label("Password").fill("operator-password")
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("link", name="Base models").click()
    expect(page.get_by_text("it also reads images")).to_be_visible()
    shoot("base-models")
    row = page.get_by_role("row").filter(has_text="llama3.2:3b")
    row.get_by_text("Gated: how to get access").click()
    expect(row.get_by_text("HF_TOKEN")).to_be_visible()
    row.get_by_role("button", name="Add as base").click()
    expect(page.get_by_role("row").filter(has_text="llama3.2:3b")).to_contain_text("made ready at first use")

    page.get_by_label("Name or repository").fill("in-house")
    page.get_by_role("button", name="Filter").click()
    expect(page.get_by_role("row").filter(has_text="llama3.2:3b")).to_have_count(0)
    page.get_by_role("link", name="Weights of in-house:8b").click()
    expect(page.get_by_label("Ollama's own quantised file")).to_be_disabled()
    page.get_by_label("Repository or folder").fill("acme/in-house-8b")
    page.get_by_role("button", name="Keep").click()
    expect(page.get_by_role("row").filter(has_text="acme/in-house-8b")).to_be_visible()

    page.goto(f"{site}/projects/{project.pk}/runs/new")
    chooser = page.get_by_label("Base model")
    expect(chooser.locator("option", has_text="tiny:1")).to_be_disabled()
    expect(page.get_by_text("Weights of ").first).to_be_visible()  # a change before the first answer would get lost
    chooser.select_option(label="llama3.2:3b · 3.2 B · Llama 3.2")
    expect(page.get_by_text("Weights of llama3.2:3b: meta-llama/Llama-3.2-3B-Instruct")).to_be_visible()
