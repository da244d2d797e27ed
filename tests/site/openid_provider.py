"""A real OpenID Connect provider: django-allauth's own, as a program of its own on a database in memory.

python openid_provider.py CALLBACK prints its port; people are named on the line of `PEOPLE`, all with one password.
"""

import sys
from wsgiref.simple_server import WSGIRequestHandler, make_server

import django
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.conf import settings

PASSWORD = "a-password-at-the-provider"
CLIENT_ID, CLIENT_SECRET = "finetune", "a-secret-between-both"
PEOPLE = {  # name: address, whether the provider has verified it
    "ann": ("ann@example.org", True),
    "bob": ("bob@example.org", False),
    "eve": ("eve@elsewhere.example", True),
}


def configure() -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    settings.configure(
        SECRET_KEY="of the provider alone",
        ALLOWED_HOSTS=["127.0.0.1"],
        ROOT_URLCONF=__name__,
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=[
            "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "django.contrib.messages",
            "allauth", "allauth.account", "allauth.idp.oidc",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
            "allauth.account.middleware.AccountMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
            }
        ],
        AUTHENTICATION_BACKENDS=["allauth.account.auth_backends.AuthenticationBackend"],
        ACCOUNT_RATE_LIMITS=False,
        LOGIN_URL="/login/",
        IDP_OIDC_PRIVATE_KEY=key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
    )  # fmt: skip
    django.setup()


def fill(callback: str) -> None:
    from allauth.account.models import EmailAddress
    from allauth.idp.oidc.models import Client
    from django.contrib.auth.models import User
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    for name, (email, verified) in PEOPLE.items():
        user = User.objects.create_user(name, email, PASSWORD)
        EmailAddress.objects.create(user=user, email=email, verified=verified, primary=True)
    client = Client(id=CLIENT_ID, name="Finetune Site", skip_consent=True)
    client.set_secret(CLIENT_SECRET)
    client.set_scopes(["openid", "profile", "email"])
    client.set_redirect_uris([callback])
    client.save()


class Silent(WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


if __name__ == "__main__":
    configure()
    fill(sys.argv[1])
    from django.core.wsgi import get_wsgi_application
    from django.urls import include, path

    urlpatterns = [path("", include("allauth.account.urls")), path("", include("allauth.idp.urls"))]
    with make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=Silent) as server:
        print(server.server_port, flush=True)  # noqa: T201
        server.serve_forever()
