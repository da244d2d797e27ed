"""Each value that cannot work is refused with a sentence, and the README names every setting that the code reads."""

import os
import re
import runpy
import subprocess
import sys

import pytest
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured

from finetune_site.operations.checks import TAG
from finetune_site.operations.inspection import inspect
from tests.conftest import ROOT

SETTINGS = ROOT / "finetune_site" / "settings.py"
# Read by other programs, or named by operators themselves.
NOT_OF_SETTINGS = {"HF_TOKEN", "FINETUNE_LLM_…"}

BAD = [
    ("DATABASE_URL", "mysql://a@b/c", "runs on Postgres alone"),
    ("DATABASE_URL", "postgresql://a:se cret@b:x y/c?nonsense", "DATABASE_URL cannot be read"),
    ("FINETUNE_SECRET_KEY", "short", "at least 32 letters"),
    ("FINETUNE_DATA_DIR", "/proc/nowhere", "cannot be made"),
    ("FINETUNE_HOSTS", "https://portal.example.org", "without https://"),
    ("FINETUNE_HOSTS", " , ", "must name hosts"),
    ("FINETUNE_ORIGINS", "portal.example.org", "must begin with https://"),
    ("FINETUNE_HTTPS", "maybe", "must be on or off"),
    ("FINETUNE_DEBUG", "2", "must be on or off"),
    ("FINETUNE_LOG_LEVEL", "LOUD", "must be one of CRITICAL, DEBUG"),
    ("FINETUNE_LOG_FORMAT", "xml", "must be one of json, text"),
    ("FINETUNE_METRICS_TOKEN", "short", "at least 16 letters"),
    ("FINETUNE_TIME_ZONE", "Europe/Nowhere", "such as Europe/Berlin"),
    ("WEB_CONCURRENCY", "0", "must be at least 1"),
    ("FINETUNE_UPLOAD_MAX_MB", "many", "must be a whole number"),
    ("FINETUNE_UPLOAD_MAX_MB", "0", "must be at least 1"),
    ("FINETUNE_UPLOAD_MAX_FILES", "0", "must be at least 1"),
    ("FINETUNE_PARSE_MEMORY_MB", "16", "must be at least 512"),
    ("FINETUNE_PARSE_CPU_SECONDS", "-1", "must be a whole number"),
    ("FINETUNE_PARSE_WALL_SECONDS", "0", "must be at least 1"),
    ("FINETUNE_PARSE_OUTPUT_MB", "0", "must be at least 1"),
    ("FINETUNE_JOB_HEARTBEAT_SECONDS", "0", "must be at least 1"),
    ("FINETUNE_JOB_HEARTBEAT_SECONDS", "60", "a living runner loses its job"),
    ("FINETUNE_JOB_CUTOFF_SECONDS", "10", "a living runner loses its job"),
    ("FINETUNE_LABEL_STUDIO_MINUTES", "0", "must be at least 1"),
    ("FINETUNE_CHAT_MODELS", "0", "must be at least 1"),
    ("FINETUNE_SLOTS_GPU", "1.5", "must be a whole number"),
    ("FINETUNE_ROLE_PRIORITIES", "boss=1", "must look like operator=2,owner=1"),
    ("FINETUNE_RAY_ADDRESS", "ray://head", "must be host:port or auto"),
    ("FINETUNE_BACKUP_DIR", "backups", "begins with /"),
    ("FINETUNE_JOB_LOG_DAYS", "some", "must be a whole number"),
    ("FINETUNE_S3_BUCKET", "s3://bucket", "a bucket's name without an address"),
    ("FINETUNE_S3_ENDPOINT", "s3.example.org", "must look like https://s3.example.org"),
    ("FINETUNE_PROJECT_DISK_GB", "much", "must be a whole number"),
    ("FINETUNE_PROJECT_DEVICE_HOURS", "-1", "must be a whole number"),
    ("FINETUNE_BACKUP_HOURS", "0", "must be at least 1"),
    ("FINETUNE_BACKUP_KEEP", "0", "must be at least 1"),
    ("FINETUNE_SMTP_PORT", "0", "must be at least 1"),
    ("FINETUNE_SMTP_TLS", "maybe", "must be one of off, starttls, tls"),
    ("FINETUNE_URL", "portal.example.org", "without a path"),
    ("FINETUNE_WEBHOOK_HOSTS", "hooks.example.org/a", "must name hosts"),
    ("FINETUNE_TWO_FACTOR", "some", "must be one of everybody, off, operators"),
    ("FINETUNE_OIDC_URL", "https://sso.example.org", "FINETUNE_OIDC_CLIENT_ID"),
    ("FINETUNE_MODEL_FOLDERS", "models:/srv/models", "begin with /"),
]


@pytest.mark.parametrize(("name", "value", "sentence"), BAD, ids=[f"{name}={value}" for name, value, _ in BAD])
def test_a_value_that_cannot_work_is_refused(name, value, sentence, monkeypatch):
    runpy.run_path(str(SETTINGS))  # without it the settings are fine
    monkeypatch.setenv(name, value)
    with pytest.raises(ImproperlyConfigured) as told:
        runpy.run_path(str(SETTINGS))
    assert sentence in str(told.value) and (name in str(told.value))
    assert "se cret" not in str(told.value)


def test_the_command_says_it_in_a_sentence_and_no_more():
    bad = {**os.environ, "FINETUNE_METRICS_TOKEN": "short"}
    done = subprocess.run([sys.executable, "manage.py", "up"], cwd=ROOT, env=bad, capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("A setting has to be mended first. FINETUNE_METRICS_TOKEN must have at least 16")
    assert len(done.stderr.splitlines()) == 1


def test_values_that_need_others_are_refused_without_them(monkeypatch):
    monkeypatch.setenv("FINETUNE_SMTP_HOST", "mail.example.org")
    with pytest.raises(ImproperlyConfigured, match="FINETUNE_MAIL_FROM must name the sender"):
        runpy.run_path(str(SETTINGS))
    monkeypatch.setenv("FINETUNE_MAIL_FROM", "Finetune <finetune@example.org>")
    assert runpy.run_path(str(SETTINGS))["ACCOUNT_EMAIL_VERIFICATION"] == "optional"
    for name in ("FINETUNE_OIDC_CLIENT_ID", "FINETUNE_OIDC_CLIENT_SECRET"):
        monkeypatch.setenv(name, "given")
    monkeypatch.setenv("FINETUNE_OIDC_URL", "http://sso.example.org")
    with pytest.raises(ImproperlyConfigured, match="must begin with https://"):
        runpy.run_path(str(SETTINGS))
    monkeypatch.setenv("FINETUNE_OIDC_URL", "https://sso.example.org/realms/main/")
    policy = runpy.run_path(str(SETTINGS))["CONTENT_SECURITY_POLICY"]["DIRECTIVES"]
    assert policy["form-action"][1:] == ["https://sso.example.org"]


@pytest.mark.parametrize("word", ["on", "1", "TRUE", "yes"])
def test_words_for_on(word, monkeypatch):
    monkeypatch.setenv("FINETUNE_HTTPS", word)
    assert runpy.run_path(str(SETTINGS))["HTTPS"] is True
    monkeypatch.setenv("FINETUNE_HTTPS", "off")
    assert runpy.run_path(str(SETTINGS))["HTTPS"] is False


def test_the_readme_names_every_setting_and_no_other():
    read = set(re.findall(r'"((?:FINETUNE_|DATABASE_URL|WEB_)[A-Z0-9_]*)"', SETTINGS.read_text()))
    table = (ROOT / "README.md").read_text().partition("## Settings")[2].partition("\n## ")[0]
    named: set[str] = set()
    for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
        full = ""
        for word in re.findall(r"`([^`]+)`", row):
            if word.startswith("_"):  # the end of a name that begins as the one before it
                parts = full.split("_")
                meant = {"_".join(parts[:count]) + word for count in range(1, len(parts))} & read
                assert len(meant) == 1, f"{word} after {full} names {meant or 'no setting'}"
                named |= meant
            else:
                full = word
                named.add(word)
    assert named - NOT_OF_SETTINGS == read


def test_what_only_the_machine_can_tell_is_checked(settings, db):
    def ids() -> list[str]:
        return sorted(str(found.id) for found in run_checks(tags=[TAG]))

    settings.ALLOWED_HOSTS = ["localhost", "127.0.0.1", "web", "[::1]"]
    assert ids() == []
    settings.ALLOWED_HOSTS, settings.LLAMA_CPP_DIR = ["portal.example.org"], "/no/such/folder"
    assert ids() == ["operations.W001", "operations.W002"]
    [ground] = [section for section in inspect() if section.title == "Ground"]
    assert any("FINETUNE_HTTPS" in line.text for line in ground.lines)
    settings.DEBUG, settings.HTTPS = True, True
    assert ids() == ["operations.W001", "operations.W003"]
