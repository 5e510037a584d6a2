"""Ed25519 signatures of JSON values, with keys as ``ssh-keygen -t ed25519`` and ``openssl`` write them."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guda_lightning.errors import ConfigError, MissingExtraError
from guda_lightning.storage.files import canonical_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_MAKE = "ssh-keygen -t ed25519 -N '' -f KEY makes one"


def private_key(path: Path) -> Ed25519PrivateKey:
    """Read a key to sign with.

    Raises:
        ConfigError: It is no private Ed25519 key, or it is encrypted.
        MissingExtraError: The package ``cryptography`` is not installed.
    """
    data = _read(path)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

    expected = "a private Ed25519 key without a passphrase, in PEM or OpenSSH format"
    if _is_public(data):
        fix = "pass the private key beside it, the file without .pub"
        raise _refused(path, "a public key, which signs nothing", expected, fix)
    key: object
    try:
        if b"OPENSSH PRIVATE KEY" in data:
            key = load_ssh_private_key(data, None)
        else:
            key = load_pem_private_key(data, None)
    except Exception as error:  # the library raises several kinds, not all of them its own
        if b"ENCRYPTED" in data or "password" in str(error).lower():
            fix = "write it once more without one: ssh-keygen -p -N '' -f COPY of the key"
            raise _refused(path, "a key that a passphrase protects", expected, fix) from error
        raise _refused(path, _said(error), expected, _MAKE) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _refused(path, _kind_of(key), expected, _MAKE)
    return key


def public_key(path: Path) -> Ed25519PublicKey:
    """Read a key to check with; raises as ``private_key``, for what is no public Ed25519 key."""
    data = _read(path)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key, load_ssh_public_key

    expected = "a public Ed25519 key, in PEM or OpenSSH format"
    if b"PRIVATE KEY" in data:
        fix = "pass the public key beside it, the file with .pub, and show the private one to nobody"
        raise _refused(path, "a private key", expected, fix)
    key: object
    try:
        key = load_pem_public_key(data) if b"-----BEGIN" in data else load_ssh_public_key(data)
    except Exception as error:
        raise _refused(path, _said(error), expected, f"ask who signed for it; {_MAKE}, KEY.pub") from error
    if not isinstance(key, Ed25519PublicKey):
        raise _refused(path, _kind_of(key), expected, f"ask who signed for it; {_MAKE}, KEY.pub")
    return key


def signed(document: Mapping[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """The document with a signature of everything else in it."""
    line = ssh_line(key.public_key())
    about = {"algorithm": "Ed25519", "public_key": line, "fingerprint": fingerprint(line)}
    unsigned = {**document, "signature": about}
    value = base64.b64encode(key.sign(canonical_json(unsigned).encode())).decode()
    return {**unsigned, "signature": {**about, "value": value}}


def is_right(document: Mapping[str, Any]) -> bool:
    """Whether the signature in a document is of its contents, by the key that the document names.

    Raises:
        MissingExtraError: The package ``cryptography`` is not installed.
    """
    _refuse_missing()
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_ssh_public_key

    about = dict(document["signature"])
    try:
        value = base64.b64decode(about.pop("value"), validate=True)
        key = load_ssh_public_key(about["public_key"].encode())
        if not isinstance(key, Ed25519PublicKey) or about["fingerprint"] != fingerprint(ssh_line(key)):
            return False
        key.verify(value, canonical_json({**document, "signature": about}).encode())
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        return False
    return True


def ssh_line(key: Ed25519PublicKey) -> str:
    """A public key as OpenSSH writes it, without a comment."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def fingerprint(line: str) -> str:
    """What ``ssh-keygen -l`` says of a public key; empty where it is none."""
    try:
        blob = base64.b64decode(line.split()[1], validate=True)
    except (IndexError, binascii.Error):
        return ""
    return f"SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}"


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes() if path.is_file() else None
    except OSError as error:
        raise _refused(path, error.strerror or error, "a file with a key", "correct the path") from error
    if data is None:
        raise _refused(path, f"no file {path}", "a file with a key", f"correct the path; {_MAKE}")
    _refuse_missing()
    return data


def _refuse_missing() -> None:
    if find_spec("cryptography") is None:
        raise MissingExtraError("cryptography", "sign")


def _is_public(data: bytes) -> bool:
    return data.startswith((b"ssh-", b"ecdsa-", b"sk-")) or b"PUBLIC KEY" in data


def _kind_of(key: object) -> str:
    return f"a key of another kind, {type(key).__name__.removeprefix('_')}"


def _said(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__


def _refused(path: Path, found: object, expected: str, fix: str) -> ConfigError:
    return ConfigError(f"the key {path} cannot be used", found=found, expected=expected, fix=fix)
