"""Settings of the site, read from the environment; the README has the table of them.

A value that cannot work is refused here, at start, with a sentence.
"""

import os
import re
import secrets
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict
from pythonjsonlogger.core import RESERVED_ATTRS

from finetune_site.lib import postgres

BASE_DIR = Path(__file__).resolve().parent.parent
_YES, _NO = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


def _flag(name: str, default: bool) -> bool:
    value = os.environ.get(name, "").strip().lower()
    if value and value not in {*_YES, *_NO}:
        raise ImproperlyConfigured(f"{name} must be on or off, not {value!r}.")
    return value in _YES if value else default


def _number(name: str, default: int, least: int = 0) -> int:
    value = os.environ.get(name, "")
    if value and not value.isdecimal():
        raise ImproperlyConfigured(f"{name} must be a whole number, not {value!r}.")
    if value and int(value) < least:
        raise ImproperlyConfigured(f"{name} must be at least {least}, not {value}.")
    return int(value) if value else default


def _limit(name: str) -> int | None:
    return _number(name, 0) if os.environ.get(name) else None


def _choice(name: str, default: str, known: set[str]) -> str:
    value = os.environ.get(name, "").strip() or default
    found = next((word for word in known if word.lower() == value.lower()), None)
    if found is None:
        raise ImproperlyConfigured(f"{name} must be one of {', '.join(sorted(known))}, not {value!r}.")
    return found


def _list(name: str, default: str) -> list[str]:
    return [part.strip() for part in os.environ.get(name, default).split(",") if part.strip()]


def _priorities(name: str) -> dict[str, int]:
    found = {}
    for part in _list(name, ""):
        role, _, number = part.partition("=")
        if role not in {"operator", "owner", "trainer", "reviewer", "viewer"} or not number.isdecimal():
            raise ImproperlyConfigured(f"{name} must look like operator=2,owner=1; {part!r} does not.")
        found[role] = int(number)
    return found


def _secret_key() -> str:
    """The key from the environment, else one made at the first start and kept readable by its owner alone."""
    if key := os.environ.get("FINETUNE_SECRET_KEY"):
        if len(key) < 32:
            raise ImproperlyConfigured("FINETUNE_SECRET_KEY must have at least 32 letters: `openssl rand -base64 50`.")
        return key
    path = DATA_DIR / "secret_key"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text()
    with os.fdopen(descriptor, "w") as stream:
        stream.write(secrets.token_urlsafe(50))
    return path.read_text()


DATA_DIR = Path(os.environ.get("FINETUNE_DATA_DIR", BASE_DIR / "var")).resolve()
try:
    DATA_DIR.mkdir(parents=True, exist_ok=True)
except OSError as error:
    raise ImproperlyConfigured(f"FINETUNE_DATA_DIR {DATA_DIR} cannot be made: {error.strerror}.") from error
DEBUG = _flag("FINETUNE_DEBUG", False)
SECRET_KEY = _secret_key()
ALLOWED_HOSTS = _list("FINETUNE_HOSTS", "localhost,127.0.0.1,[::1]")
if not ALLOWED_HOSTS or any("/" in host for host in ALLOWED_HOSTS):
    raise ImproperlyConfigured("FINETUNE_HOSTS must name hosts without https:// and paths: portal.example.org.")
CSRF_TRUSTED_ORIGINS = _list("FINETUNE_ORIGINS", "")
if not all(origin.startswith(("https://", "http://")) for origin in CSRF_TRUSTED_ORIGINS):
    raise ImproperlyConfigured("FINETUNE_ORIGINS must begin with https:// (or http://): https://portal.example.org.")
# Behind TLS: cookies are sent over it alone, plain requests are redirected, and browsers remember it for a year.
HTTPS = _flag("FINETUNE_HTTPS", False)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS
# Label Studio, probes and scrapers may reach us within a private network, where nobody ends TLS.
SECURE_REDIRECT_EXEMPT = [r"^label-studio/hooks/", r"^health/", r"^metrics$"]
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
# A proxy that the operator trusts says whether people came over TLS, and may give requests their ids.
BEHIND_PROXY = _flag("FINETUNE_BEHIND_PROXY", False)
if BEHIND_PROXY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
# Nothing runs in a page but our own files: a text that slipped through as HTML would still do nothing.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],  # the kit's own stylesheet draws its small icons so
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}

# Mail: where it can be sent, people confirm their address and set forgotten passwords by themselves.
CAN_MAIL = bool(os.environ.get("FINETUNE_SMTP_HOST", "").strip())
EMAIL_HOST = os.environ.get("FINETUNE_SMTP_HOST", "").strip()
EMAIL_PORT = _number("FINETUNE_SMTP_PORT", 587, least=1)
EMAIL_HOST_USER = os.environ.get("FINETUNE_SMTP_USER", "")
EMAIL_HOST_PASSWORD = os.environ.get("FINETUNE_SMTP_PASSWORD", "")
_tls = _choice("FINETUNE_SMTP_TLS", "starttls", {"starttls", "tls", "off"})
EMAIL_USE_TLS, EMAIL_USE_SSL, EMAIL_TIMEOUT = _tls == "starttls", _tls == "tls", 20
DEFAULT_FROM_EMAIL = SERVER_EMAIL = os.environ.get("FINETUNE_MAIL_FROM", "").strip() or "finetune@localhost"
if CAN_MAIL and "@localhost" in DEFAULT_FROM_EMAIL:
    raise ImproperlyConfigured("FINETUNE_MAIL_FROM must name the sender of mail: Finetune <finetune@example.org>.")
# Where people reach the site: links in mails and webhooks begin so.
SITE_URL = os.environ.get("FINETUNE_URL", "").strip().rstrip("/") or "http://localhost:8000"
if not re.fullmatch(r"https?://[^/\s]+", SITE_URL):
    raise ImproperlyConfigured("FINETUNE_URL must be an address without a path: https://portal.example.org.")
# Hosts that people may have called with their notices; the site asks no other on a user's word.
WEBHOOK_HOSTS = [host if "://" in host else f"https://{host}" for host in _list("FINETUNE_WEBHOOK_HOSTS", "")]
if any(not re.fullmatch(r"https?://[^/\s@]+", host) for host in WEBHOOK_HOSTS):
    raise ImproperlyConfigured("FINETUNE_WEBHOOK_HOSTS must name hosts: hooks.example.org,http://chat.internal:8065.")
# Whoever shows to own an address of these domains may make an account; else an invitation is needed.
SIGN_UP_DOMAINS = [domain.lower().lstrip("@") for domain in _list("FINETUNE_SIGN_UP_DOMAINS", "")]
# Who has to set up a second factor before anything else.
TWO_FACTOR = _choice("FINETUNE_TWO_FACTOR", "off", {"off", "operators", "everybody"})
# The organisation's own sign-in.
OIDC_URL = os.environ.get("FINETUNE_OIDC_URL", "").strip().rstrip("/")
OIDC_NAME = os.environ.get("FINETUNE_OIDC_NAME", "").strip() or ("Single sign-on" if OIDC_URL else "")
OIDC_CLIENT_ID = os.environ.get("FINETUNE_OIDC_CLIENT_ID", "").strip()
OIDC_CLIENT_SECRET = os.environ.get("FINETUNE_OIDC_CLIENT_SECRET", "").strip()
if OIDC_URL and not (OIDC_CLIENT_ID and OIDC_CLIENT_SECRET):
    raise ImproperlyConfigured(
        "FINETUNE_OIDC_URL needs FINETUNE_OIDC_CLIENT_ID and FINETUNE_OIDC_CLIENT_SECRET beside it: the provider "
        "gives both when the site is registered there."
    )
if OIDC_URL and not re.match(r"https://|http://(localhost|127\.0\.0\.1)[:/]", OIDC_URL):
    # The provider's answer is believed because of the encrypted way it came on.
    raise ImproperlyConfigured("FINETUNE_OIDC_URL must begin with https://.")
if OIDC_URL:  # the form that leads there is followed by the browser only if it may
    CONTENT_SECURITY_POLICY["DIRECTIVES"]["form-action"].append("/".join(OIDC_URL.split("/")[:3]))

INSTALLED_APPS = [
    "finetune_site.projects.apps.ProjectsConfig",
    "finetune_site.accounts.apps.AccountsConfig",
    "finetune_site.jobs.apps.JobsConfig",
    "datasets_app.apps.DatasetsConfig",
    "training_app.apps.TrainingConfig",
    "finetune_site.api.apps.ApiConfig",
    "finetune_site.operations.apps.OperationsConfig",
    "finetune_site.notifications.apps.NotificationsConfig",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "servestatic.runserver_nostatic",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.usersessions",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "csp",
    "django_htmx",
    "django_q",
    "template_partials",
]
MIDDLEWARE = [
    "finetune_site.operations.middleware.request_context",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "servestatic.middleware.ServeStaticMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    # Default deny: a view that anonymous visitors may see says so with @login_not_required.
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "finetune_site.accounts.middleware.PersonMiddleware",
    "finetune_site.operations.middleware.FilesAwayMiddleware",
]
ROOT_URLCONF = "finetune_site.urls"
ASGI_APPLICATION = "finetune_site.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "finetune_site.accounts.context.ways_in",
            ],
            "builtins": ["finetune_site.projects.templatetags.ui"],
        },
    }
]

DATABASE_URL = os.environ.get("DATABASE_URL") or postgres.dsn(DATA_DIR)
if not DATABASE_URL.startswith(("postgres://", "postgresql://")):
    raise ImproperlyConfigured("DATABASE_URL must begin with postgresql:// (the portal runs on Postgres alone).")
try:
    _conninfo = conninfo_to_dict(DATABASE_URL)
except ProgrammingError:
    # Without the cause: it would print the address with its password.
    raise ImproperlyConfigured(
        "DATABASE_URL cannot be read. Write postgresql://user:password@host/name, with %40 for an @ in the password."
    ) from None
_database_options = {
    key: value for key, value in _conninfo.items() if key not in {"dbname", "user", "password", "host", "port"}
}
# Only the web process pools: it serves many viewers from few connections. Django-Q2 forks; no pool survives that.
DATABASE_POOL = _flag("FINETUNE_DATABASE_POOL", False)
# How many processes serve pages; uvicorn reads the variable too. Their figures meet in files, for whichever is asked.
WEB_PROCESSES = _number("WEB_CONCURRENCY", 1, least=1)
if WEB_PROCESSES > 1:
    os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", str(DATA_DIR / "run" / f"figures-{os.getppid()}"))
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _conninfo.get("dbname", ""),
        "USER": _conninfo.get("user", ""),
        "PASSWORD": _conninfo.get("password", ""),
        "HOST": _conninfo.get("host", ""),
        "PORT": _conninfo.get("port", ""),
        "OPTIONS": {
            **_database_options,
            **({"pool": {"min_size": 2, "max_size": 10, "timeout": 20}} if DATABASE_POOL else {}),
        },
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CACHES = {"default": {"BACKEND": "django.core.cache.backends.db.DatabaseCache", "LOCATION": "site_cache"}}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
AUTHENTICATION_BACKENDS = ["finetune_site.accounts.backends.PersonBackend"]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "home"
ACCOUNT_LOGOUT_REDIRECT_URL = "account_login"
ACCOUNT_ADAPTER = "finetune_site.accounts.adapters.AccountAdapter"
ACCOUNT_FORMS = {"login": "finetune_site.accounts.forms.SignInForm"}
ACCOUNT_LOGIN_METHODS = {"username", "email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "username*", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "optional" if CAN_MAIL else "none"
ACCOUNT_EMAIL_NOTIFICATIONS = CAN_MAIL
ACCOUNT_EMAIL_UNKNOWN_ACCOUNTS = False
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_USERNAME_MIN_LENGTH = 2
ACCOUNT_LOGIN_ON_PASSWORD_RESET = False
ALLAUTH_TRUSTED_PROXY_COUNT = 1 if BEHIND_PROXY else 0  # limits count by the address that the proxy saw
MFA_ADAPTER = "finetune_site.accounts.adapters.MFAAdapter"
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes"]
MFA_ALLOW_UNVERIFIED_EMAIL = True  # a site without mail has no other
SOCIALACCOUNT_ADAPTER = "finetune_site.accounts.adapters.SocialAccountAdapter"
SOCIALACCOUNT_EMAIL_VERIFICATION = ACCOUNT_EMAIL_VERIFICATION
SOCIALACCOUNT_STORE_TOKENS = False
SOCIALACCOUNT_PROVIDERS = {
    "openid_connect": {
        "OAUTH_PKCE_ENABLED": True,
        "APPS": [
            {
                "provider_id": "organisation",
                "name": OIDC_NAME,
                "client_id": OIDC_CLIENT_ID,
                "secret": OIDC_CLIENT_SECRET,
                "settings": {"server_url": OIDC_URL},
            }
        ]
        if OIDC_URL
        else [],
    }
}

LANGUAGE_CODE = "en-gb"
TIME_ZONE = os.environ.get("FINETUNE_TIME_ZONE", "UTC")
if TIME_ZONE not in available_timezones():
    raise ImproperlyConfigured(f"FINETUNE_TIME_ZONE must be one such as Europe/Berlin or UTC, not {TIME_ZONE!r}.")
USE_TZ = True
STATIC_URL = "static/"
STATIC_ROOT = DATA_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
MEDIA_ROOT = DATA_DIR / "files"
STORAGES: dict[str, dict[str, Any]] = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "servestatic.storage.CompressedManifestStaticFilesStorage"},
}
# Where machines share no folder their files meet in a bucket of an S3-compatible server. Without keys of ours boto3
# looks for them where it always does: AWS_… variables, a role of the machine.
S3_BUCKET = os.environ.get("FINETUNE_S3_BUCKET", "").strip()
S3_ENDPOINT = os.environ.get("FINETUNE_S3_ENDPOINT", "").strip()
if S3_BUCKET and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", S3_BUCKET):
    raise ImproperlyConfigured(f"FINETUNE_S3_BUCKET must be a bucket's name without an address, not {S3_BUCKET!r}.")
if S3_ENDPOINT and not re.fullmatch(r"https?://[^/\s@]+/?", S3_ENDPOINT):
    raise ImproperlyConfigured("FINETUNE_S3_ENDPOINT must look like https://s3.example.org.")
if S3_BUCKET and not find_spec("storages"):
    raise ImproperlyConfigured("FINETUNE_S3_BUCKET needs django-storages and boto3: pip install '.[s3]'.")
if S3_BUCKET:
    from botocore.config import Config

    STORAGES["bucket"] = {
        "BACKEND": "storages.backends.s3.S3Storage",
        "OPTIONS": {
            "bucket_name": S3_BUCKET,
            "endpoint_url": S3_ENDPOINT or None,
            "region_name": os.environ.get("FINETUNE_S3_REGION") or None,
            "access_key": os.environ.get("FINETUNE_S3_ACCESS_KEY") or None,
            "secret_key": os.environ.get("FINETUNE_S3_SECRET_KEY") or None,
            # Servers that are not Amazon's rarely have a name for each bucket, nor all of the newer checksums.
            "client_config": Config(
                s3={"addressing_style": "path" if S3_ENDPOINT else "auto"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                retries={"max_attempts": 4, "mode": "standard"},
                connect_timeout=10,
                read_timeout=60,
            ),
        },
    }
if DEBUG:
    STORAGES["staticfiles"]["BACKEND"] = "django.contrib.staticfiles.storage.StaticFilesStorage"

# Uploads: a request never holds more than a piece of a few megabytes in memory.
UPLOAD_MAX_BYTES = _number("FINETUNE_UPLOAD_MAX_MB", 300, least=1) * 1024 * 1024
UPLOAD_MAX_FILES = _number("FINETUNE_UPLOAD_MAX_FILES", 200, least=1)
DATA_UPLOAD_MAX_MEMORY_SIZE = 5 * 1024 * 1024
DATA_UPLOAD_MAX_NUMBER_FIELDS = 5000

# Parsing happens in a process of its own under these limits.
PARSE_MEMORY_BYTES = _number("FINETUNE_PARSE_MEMORY_MB", 6144, least=512) * 1024 * 1024
PARSE_CPU_SECONDS = _number("FINETUNE_PARSE_CPU_SECONDS", 900, least=1)
PARSE_WALL_SECONDS = _number("FINETUNE_PARSE_WALL_SECONDS", 1800, least=1)
LAYOUT_MODEL = os.environ.get("FINETUNE_LAYOUT_MODEL", "")  # a path on the machines that parse
PARSE_OUTPUT_BYTES = _number("FINETUNE_PARSE_OUTPUT_MB", 500, least=1) * 1024 * 1024

# Jobs: a runner renews its lease at every heartbeat.
# A runner cut off from Postgres stops itself after JOB_CUTOFF_SECONDS, before another machine may take its job over.
JOB_LEASE_SECONDS = _number("FINETUNE_JOB_LEASE_SECONDS", 30)
JOB_HEARTBEAT_SECONDS = _number("FINETUNE_JOB_HEARTBEAT_SECONDS", 5, least=1)
JOB_CUTOFF_SECONDS = _number("FINETUNE_JOB_CUTOFF_SECONDS", 300)
if not JOB_HEARTBEAT_SECONDS < JOB_LEASE_SECONDS <= JOB_CUTOFF_SECONDS:
    raise ImproperlyConfigured(
        "FINETUNE_JOB_HEARTBEAT_SECONDS must be less than FINETUNE_JOB_LEASE_SECONDS, and that at most "
        "FINETUNE_JOB_CUTOFF_SECONDS: else a living runner loses its job."
    )
# The devices that trainings and evaluations take turns on, one a slot: 0,1,2,3. Empty: one slot, whatever is there.
GPU_DEVICES = _list("FINETUNE_GPU_DEVICES", "")
# Whose jobs come first: operator=2,owner=1. Roles left out count 0; equals take turns, whatever is written here.
ROLE_PRIORITIES = _priorities("FINETUNE_ROLE_PRIORITIES")
# How many runners each queue may have on one machine: for `gpu` one a device; for `chat` as many, each of which holds
# models of runs in memory; for `ollama` those that pass on what published models answer.
_devices = len(GPU_DEVICES) or _number("FINETUNE_SLOTS_GPU", 1)
JOB_SLOTS = {
    "default": _number("FINETUNE_SLOTS_DEFAULT", 2),
    "gpu": _devices,
    "chat": _devices,
    "ollama": _number("FINETUNE_SLOTS_OLLAMA", 4),
}
Q_CLUSTER_NAME = os.environ.get("Q_CLUSTER_NAME", "default")
# Short tasks only; `retry` counts from the fetching of a task, so it has to exceed the time of all fetched with it.
_cluster = {
    "orm": "default",
    "workers": 2,
    "timeout": 120,
    "retry": 480,
    "queue_limit": 1,
    "bulk": 1,
    "poll": 0.2,
    "max_attempts": 3,
    "catch_up": False,
    "save_limit": 100,
    "label": "Task queue",
}
Q_CLUSTER = {"name": "default", **_cluster, "ALT_CLUSTERS": {"gpu": {**_cluster, "workers": 1}}}

# How often decisions are brought back from Label Studio where no webhook tells of them.
LABEL_STUDIO_MINUTES = _number("FINETUNE_LABEL_STUDIO_MINUTES", 5, least=1)
# Where backups are written by themselves, how often, and how many are kept; empty: none is.
BACKUP_DIR = os.environ.get("FINETUNE_BACKUP_DIR", "").strip()
if BACKUP_DIR and not Path(BACKUP_DIR).is_absolute():
    raise ImproperlyConfigured(f"FINETUNE_BACKUP_DIR must be a whole path that begins with /, not {BACKUP_DIR!r}.")
# Lines and progress of jobs that ended are forgotten after so many days; 0: never.
JOB_LOG_DAYS = _number("FINETUNE_JOB_LOG_DAYS", 0)
# What a project may take where operators set nothing else for it; None: without a limit.
PROJECT_DISK_GB = _limit("FINETUNE_PROJECT_DISK_GB")
PROJECT_DEVICE_HOURS = _limit("FINETUNE_PROJECT_DEVICE_HOURS")
BACKUP_HOURS = _number("FINETUNE_BACKUP_HOURS", 24, least=1)
BACKUP_KEEP = _number("FINETUNE_BACKUP_KEEP", 7, least=1)
# Short tasks that come by themselves: name, function and minutes between.
JOB_SCHEDULES = {
    "reconcile": ("finetune_site.jobs.dispatch.reconcile", 1),
    "tally": ("datasets_app.services.datasets.settle_tally", 5),
    "label studio": ("datasets_app.services.labelstudio.sync_all", LABEL_STUDIO_MINUTES),
    "chats": ("training_app.services.chat.forget_old", 24 * 60),
    "uploads": ("datasets_app.services.uploads.forget_stale", 60),
    "kept answers": ("finetune_site.api.services.forget_answers", 60),
    "questions": ("training_app.services.chat.call_for_waiting", 1),
    "notices": ("finetune_site.notifications.services.tell", 1),
    "room": ("training_app.services.use.measure_projects", 10),
    "hours": ("finetune_site.jobs.services.stop_beyond_limit", 1),
    "checkpoints": ("training_app.services.housekeeping.clean_up_by_itself", 24 * 60),
    "forget": ("finetune_site.operations.schedules.forget_old", 24 * 60),
    "backup": ("finetune_site.operations.schedules.back_up_when_due", 60),
}

# The engines: how many threads a training process takes; 0: as many as there are cores.
ENGINE_THREADS = _number("FINETUNE_ENGINE_THREADS", 0)
# The head of a Ray cluster that runs may be computed on, host:port; `auto`: the one this machine belongs to.
RAY_ADDRESS = os.environ.get("FINETUNE_RAY_ADDRESS", "").strip()
if RAY_ADDRESS and RAY_ADDRESS != "auto" and not re.fullmatch(r"[^/\s]+:\d+", RAY_ADDRESS):
    raise ImproperlyConfigured(f"FINETUNE_RAY_ADDRESS must be host:port or auto, not {RAY_ADDRESS!r}.")
# Task files of lm-eval that people may choose beside the known ones. They may hold code: the operator's alone.
LM_EVAL_TASKS = os.environ.get("FINETUNE_LM_EVAL_TASKS", "").strip()
# A llama.cpp tree of the operator's: its converter instead of the package's, and its quantiser for K-quants.
LLAMA_CPP_DIR = os.environ.get("FINETUNE_LLAMA_CPP_DIR", "").strip()
QUANTISERS = [
    Path(LLAMA_CPP_DIR) / name
    for name in ("llama-quantize", "build/bin/llama-quantize", "bin/llama-quantize")
    if LLAMA_CPP_DIR
]
CAN_QUANTISE = bool(shutil.which("llama-quantize")) or any(path.exists() for path in QUANTISERS)
# Folders below which operators may register base models.
MODEL_FOLDERS = [part for part in os.environ.get("FINETUNE_MODEL_FOLDERS", "").split(":") if part]
if any(not Path(folder).is_absolute() for folder in MODEL_FOLDERS):
    raise ImproperlyConfigured("FINETUNE_MODEL_FOLDERS must hold whole paths that begin with /, separated by `:`.")
# The folder in which an Ollama of this machine keeps `manifests` and `blobs`: its files can then be read back.
OLLAMA_MODELS = os.environ.get("FINETUNE_OLLAMA_MODELS", "").strip()
# Checkpoints of runs that ended well are deleted after so many days; 0: people clean up themselves.
CHECKPOINT_DAYS = _number("FINETUNE_CHECKPOINT_DAYS", 0)
# Whether runners keep PyTorch imported and fork trainings, evaluations and chats, which begin ten seconds sooner then.
WARM_TRAINING = _flag("FINETUNE_WARM_TRAINING", False)
CHAT_IDLE_SECONDS = _number("FINETUNE_CHAT_IDLE_SECONDS", 300)
# How many models the chat process of a device keeps in memory; a run's chat takes two, the tuned one and its base.
CHAT_MODELS = _number("FINETUNE_CHAT_MODELS", 4, least=1)
# Whether chats may use a device while something trains there; else trainings come first.
CHAT_BESIDE_TRAINING = _flag("FINETUNE_CHAT_BESIDE_TRAINING", False)
# Conversations that nobody saved are forgotten after so many days.
CHAT_DAYS = _number("FINETUNE_CHAT_DAYS", 30)

# What a Prometheus sends as `Authorization: Bearer …`; empty: only operators see the figures.
METRICS_TOKEN = os.environ.get("FINETUNE_METRICS_TOKEN", "").strip()
if METRICS_TOKEN and len(METRICS_TOKEN) < 16:
    raise ImproperlyConfigured(
        "FINETUNE_METRICS_TOKEN must have at least 16 letters: make one with `openssl rand -hex 24`."
    )

LOG_FORMAT = _choice("FINETUNE_LOG_FORMAT", "text", {"text", "json"})
LOG_LEVEL = _choice("FINETUNE_LOG_LEVEL", "INFO", {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})
# A line for each request is for machines that gather lines; in a terminal it would bury the others.
_requests = {"finetune_site.requests": {"level": LOG_LEVEL if LOG_FORMAT == "json" else "WARNING"}}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {
        "context": {"()": "finetune_site.lib.logs.Context"},
        "refusals": {"()": "finetune_site.lib.logs.Refusals"},
    },
    "formatters": {
        "text": {"format": "{asctime} {levelname} {name} {message}{context}", "style": "{"},
        "json": {
            "()": "pythonjsonlogger.json.JsonFormatter",
            "fmt": "{asctime}{levelname}{name}{message}",
            "style": "{",
            "rename_fields": {"asctime": "at", "levelname": "level", "name": "logger", "exc_info": "traceback"},
            # `request` would print its query; the bound facts are fields of their own.
            "reserved_attrs": [*RESERVED_ATTRS, "request", "context"],
            "json_ensure_ascii": False,
        },
    },
    "handlers": {
        "console": {"class": "logging.StreamHandler", "formatter": LOG_FORMAT, "filters": ["context", "refusals"]}
    },
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    # httpx tells every address it asks.
    "loggers": {"django-q": {"level": "WARNING"}, "httpx": {"level": "WARNING"}, **_requests},
}
