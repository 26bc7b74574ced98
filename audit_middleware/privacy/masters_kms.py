"""A master key in AWS KMS: the store's key is sent there to be wrapped and unwrapped, with the log's name as context.

The client is boto3 (the extra ``kms``). Credentials come from the standard chain of AWS, never from a setting of ours;
``AWS_ENDPOINT_URL_KMS`` and ``AWS_REGION`` are read as everywhere. The role needs ``kms:Encrypt`` to set up or rotate,
``kms:Decrypt`` to use. A store is opened with one call; then the KMS may be away until the next start.
"""

from __future__ import annotations

from typing import Any

from ..errors import ConfigError, MasterKeyError, SubjectKeysError
from .masters import KEY_SIZE, check_size

_CONNECT_S, _ANSWER_S, _TRIES = 3.0, 5.0, 3
_AWAY = frozenset(
    {
        "DependencyTimeoutException", "InternalFailure", "KMSInternalException", "KeyUnavailableException",
        "LimitExceededException", "RequestLimitExceeded", "RequestTimeout", "ServiceUnavailable", "Throttling",
        "ThrottlingException",
    }
)  # fmt: skip
_WRONG = {
    "IncorrectKeyException": "is another key than the one that wrapped the store of persons' keys",
    "InvalidCiphertextException": "did not wrap what the store of persons' keys holds, not for this log, or that is "
    "damaged",
}


class KmsMaster:
    """A key that never leaves the KMS; see `protocols.MasterKey`."""

    def __init__(self, key: str, origin: str) -> None:
        """``key``: an ID, an ARN (which says the region, too) or ``alias/NAME``. Raises `ConfigError` without boto3."""
        try:
            import boto3
            from botocore.config import Config
            from botocore.exceptions import BotoCoreError
        except ImportError:
            raise ConfigError("a master key in AWS KMS needs boto3: pip install 'audit-middleware[kms]'") from None
        self._key = key
        self._context = {"origin": origin}
        region = key.split(":")[3] if key.startswith("arn:") and key.count(":") >= 5 else None
        retries: Any = {"total_max_attempts": _TRIES, "mode": "standard"}
        config = Config(connect_timeout=_CONNECT_S, read_timeout=_ANSWER_S, retries=retries)
        try:
            # A session of its own: the default one is not made safely by several threads.
            self._client: Any = boto3.Session().client("kms", region_name=region, config=config)
        except (BotoCoreError, ValueError) as problem:
            raise MasterKeyError(f"master key {self.name}: {problem}") from None

    @property
    def name(self) -> str:
        """Its URL: no secret."""
        return f"awskms:{self._key}"

    def wrap(self, key: bytes) -> bytes:
        """The KMS's ciphertext. Raises `MasterKeyError`, or `SubjectKeysError` when it cannot be asked."""
        check_size(key, self.name)
        answer = self._ask("encrypt", KeyId=self._key, Plaintext=key, EncryptionContext=self._context)
        return bytes(answer["CiphertextBlob"])

    def unwrap(self, wrapped: bytes) -> bytes:
        """The 32 bytes. Raises `MasterKeyError`, or `SubjectKeysError` when the KMS cannot be asked."""
        answer = self._ask("decrypt", KeyId=self._key, CiphertextBlob=wrapped, EncryptionContext=self._context)
        key = bytes(answer["Plaintext"])
        if len(key) != KEY_SIZE:
            raise MasterKeyError(f"master key {self.name}: unwrapped {len(key)} bytes, not {KEY_SIZE}")
        return key

    def _ask(self, what: str, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError

        try:
            return getattr(self._client, what)(**arguments)
        except ClientError as problem:
            code = str(problem.response.get("Error", {}).get("Code", "?"))
            status = int(problem.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            if code in _AWAY or status >= 500:
                raise SubjectKeysError(f"master key {self.name}: the KMS does not {what} now ({code})") from None
            text = _WRONG.get(code, f"the KMS refuses to {what} with it")
            raise MasterKeyError(f"master key {self.name}: {text} ({code})") from None
        except (ConnectionError, HTTPClientError) as problem:  # no connection, no answer in time
            raise SubjectKeysError(
                f"master key {self.name}: the KMS cannot be reached ({type(problem).__name__})"
            ) from None
        except BotoCoreError as problem:  # no credentials, a parameter that cannot be
            raise MasterKeyError(f"master key {self.name}: {' '.join(str(problem).split())}") from None

    def __repr__(self) -> str:
        """Shows the name."""
        return f"KmsMaster({self.name!r})"
