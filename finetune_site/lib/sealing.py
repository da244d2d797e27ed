"""Secrets at rest: sealed under the site's key with Fernet (AES-128-CBC and HMAC-SHA256 of `cryptography`)."""

import base64

from cryptography.fernet import Fernet, InvalidToken
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


class UnsealError(ValueError):
    """The text was sealed under another key, or is none that `seal` made."""


def seal(secret: str, key: str) -> str:
    """What may lie in a database: `unseal` with the same key gives the secret back."""
    return _box(key).encrypt(secret.encode()).decode()


def unseal(sealed: str, key: str) -> str:
    try:
        return _box(key).decrypt(sealed.encode()).decode()
    except InvalidToken as error:
        raise UnsealError("The secret was sealed under another key.") from error


def _box(key: str) -> Fernet:
    # A key of its own, so that what is sealed says nothing of what else the site's key signs.
    derived = HKDF(SHA256(), length=32, salt=None, info=b"finetune site: secrets at rest").derive(key.encode())
    return Fernet(base64.urlsafe_b64encode(derived))
