"""The house keeps its shape: imports, addresses, job kinds, migrations, deployment settings."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import call_command
from django.urls import URLPattern, URLResolver, get_resolver

from finetune_site.jobs.kinds import all_kinds
from finetune_site.jobs.models import Job

ROOT = Path(__file__).resolve().parents[1]
HEAVY = [
    "torch",
    "transformers",
    "unstructured",
    "llama_index",
    "datasets",
    "peft",
    "trl",
    "pypdfium2",
    "spacy",
    "label_studio_sdk",
]
ENGINES = [ROOT / "datasets_app" / "engine", ROOT / "training_app" / "engine", ROOT / "finetune_site" / "lib"]


def test_imports_flow_one_way():
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_the_web_process_imports_no_engine_library():
    """A fresh process loads the ASGI application, every view, every admin page and every job kind."""
    program = f"""
import json, sys
import finetune_site.asgi
from django.urls import get_resolver
get_resolver().url_patterns
from django.contrib import admin
admin.autodiscover()
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


@pytest.mark.parametrize("path", [p for folder in ENGINES for p in folder.rglob("*.py")], ids=lambda p: p.stem)
def test_engines_and_leaf_modules_know_no_django(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.partition(".")[0])
    assert not imported & {"django", "django_q"}


def test_package_init_files_are_empty():
    """Importing an engine runs its parent packages. Django wants the models of a package imported in its init, and so
    does the jobs app the kinds of jobs."""
    full = [
        str(path.relative_to(ROOT))
        for app in ("finetune_site", "datasets_app", "training_app")
        for path in (ROOT / app).rglob("__init__.py")
        if path.read_text().strip() and path.parent.name not in ("models", "jobs")
    ]
    assert full == []


def test_every_address_has_a_name():
    def patterns(resolver):
        for entry in resolver.url_patterns:
            if isinstance(entry, URLResolver):
                if entry.namespace != "admin":
                    yield from patterns(entry)
            elif isinstance(entry, URLPattern):
                yield entry

    assert [str(entry.pattern) for entry in patterns(get_resolver()) if not entry.name] == []


def test_every_job_kind_resolves_and_has_a_queue(settings):
    assert {kind.queue for kind in all_kinds()} <= set(settings.JOB_SLOTS)
    for kind in all_kinds():
        assert callable(kind.work)
        assert Job(kind=kind.name, label="x").title == kind.title


@pytest.mark.django_db
def test_no_migration_is_missing():
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def test_deployment_settings_are_clean():
    kept = {name: value for name, value in os.environ.items() if name != "DJANGO_ALLOW_ASYNC_UNSAFE"}
    environment = {
        **kept,
        "FINETUNE_HTTPS": "1",
        "FINETUNE_SECRET_KEY": "x8" * 40 + "abcdefghij",
        "FINETUNE_HOSTS": "example.org",
    }
    done = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
