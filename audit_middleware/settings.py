"""Settings: keyword arguments of the middleware, else ``AUDIT_*`` environment variables, else defaults.

A name that does not exist, in either place, stops the start and names the nearest one that does.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticKnownError

from .errors import ConfigError

PREFIX = "AUDIT_"
_FOREIGN = ("AUDIT_TEST_", "AUDIT_READER", "AUDIT_RECORD_READS")  # read by the test suite and by the command

_SHAPES = {"challenge": r"\A[\x21-\x7e][\x20-\x7e]*\z", "master_key": r"\A(file|env|awskms):."}


class Settings(BaseModel):
    """Everything that can be set. Sizes are bytes, times milliseconds where they do not say seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    policy: Path = Field(description="The policy file (YAML).")
    log: str = Field(
        repr=False,
        description="The log, made by `audit-middleware init`: the path of a journal, or `postgresql://user@host/database`.",
    )
    state: Path | None = Field(
        None, description="For a log in a database: a folder of this host, for the key, the spool, cursors and locks."
    )
    service: str = Field(min_length=1, max_length=128, description="The service's name in every record.")
    service_version: str | None = Field(None, max_length=128, description="The service's version in every record.")
    environment: str | None = Field(None, max_length=128, description="For instance production or staging.")
    key: Path | None = Field(
        None,
        description="The log's signing key; default: the log's path with `.key` added, or `signing.key` in `state`.",
    )
    signing_key: SecretStr | None = Field(None, description="The signing key itself, instead of a file.")
    trusted_proxies: tuple[str, ...] = Field(
        (), description="Networks (CIDR) whose forwarding headers are believed, counted from the right."
    )
    trusted_proxy_depth: int = Field(0, ge=0, le=16, description="Instead of networks: how many proxies are in front.")
    forwarded_header: Literal["x-forwarded-for", "forwarded"] = Field(
        "x-forwarded-for", description="Which header the trusted proxies write."
    )
    subject_properties: tuple[str, ...] = Field((), description="Properties of a subject that may stand in a record.")
    challenge: str = Field("Bearer", description="The `WWW-Authenticate` value of a 401.")
    max_body: int = Field(16_384, ge=0, le=32_768, description="Bytes of a body kept where the policy records it.")
    spool: Path | None = Field(
        None,
        description="Where records wait while the log takes none; default: the log's path with `.spool` added, or "
        "`spool` in `state`. Another disk survives a full one.",
    )
    max_decision_body: int = Field(
        65_536, ge=1_024, le=1_048_576, description="Bytes of a JSON body that a rule may read; a larger one is denied."
    )
    decision_timeout: int = Field(
        2_000, ge=10, le=60_000, description="How long a decision waits for a loader, or for a body that a rule reads."
    )
    limit_store: SecretStr = Field(
        SecretStr("memory://"),
        description="Where limits are counted: `memory://` (each process by itself), or the URL of a Redis or Valkey.",
    )
    limit_timeout: int = Field(
        250, ge=10, le=10_000, description="How long a request waits for the limit store before it counts as away."
    )
    limit_lease: int = Field(
        15_000, ge=1_000, le=600_000, description="How long the places of a worker that died stay taken in the store."
    )
    subject_keys: str | None = Field(
        None,
        repr=False,
        description="Where the keys of persons are: a folder of this host, or `postgresql://user@host/database`; "
        "default: the log's path with `.subjects` added, or `subjects` in `state`.",
    )
    master_key: str | None = Field(
        None,
        description="The key over them: `file:PATH`, `env:NAME` or `awskms:KEY`; default: a file, the log's path with "
        "`.master` added, or `master` in `state`.",
    )
    linger: int = Field(20, ge=0, le=50, description="How long a finished request's record may wait for company.")
    queue: int = Field(4_096, ge=64, le=1_000_000, description="Records that may wait for the log.")
    patience: int = Field(1_000, ge=0, le=60_000, description="How long a request waits for the log.")
    narrow: bool | Literal["guard"] = Field(
        True,
        description="Who looks at those routes only that could match: guards and routers; `guard`: guards alone, "
        "routers run as without us; `False`: nobody. See routing.",
    )
    reload: int | None = Field(
        2_000,
        ge=0,
        description="How often the policy file is looked at for changes; 0: only at SIGHUP; none: never.",
    )
    inventory: Literal["enforce", "warn"] = Field(
        "enforce", description="Whether routes and policy that do not fit stop the start."
    )
    heartbeat: int = Field(
        60, ge=0, le=86_400, description="Seconds of silence after which a heartbeat is recorded; 0: none."
    )
    min_free: int = Field(
        512 * 2**20, ge=0, le=2**50, description="Warn when the log's file system has less room than this; 0: never."
    )
    published: tuple[Path, ...] = Field(
        (), description="Folders where the log is published: a start that finds more there than in the log is refused."
    )
    trust: Path | None = Field(None, description="A trust file (tlog-policy) whose witnesses are asked at the start.")
    publish_to: Path | None = Field(None, description="Keep the log published in this folder while the service runs.")
    cosign_interval: int = Field(
        10_000, ge=0, le=86_400_000, description="Time between two rounds to the witnesses of `trust`; 0: none."
    )
    followers: Path | None = Field(
        None, description="A configuration of followers that one of the service's processes runs; see followers."
    )
    block_interval: int = Field(
        500, ge=0, le=60_000, description="Time between two looks at the list of blocked callers; 0: nobody is blocked."
    )
    archive_to: str | None = Field(
        None,
        description="Archive the log there while the service runs: `s3://bucket/prefix` or a folder; see archiving.",
    )
    archive_interval: int = Field(
        300_000, ge=100, le=86_400_000, description="Time between two checkpoints in the archive."
    )
    archive_retain: str | None = Field(
        None, description="How long archived objects are locked, such as 400d; default: as the log's retention says."
    )
    archive_partial: bool = Field(
        False, description="Archive the partial bundle at the log's end with each checkpoint: for short logs."
    )
    publish_interval: int = Field(1_000, ge=10, le=86_400_000, description="Time between two looks of the publisher.")

    @field_validator("trusted_proxies", "subject_properties", "published", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("challenge", "master_key")
    @classmethod
    def _shaped(cls, value: str | None, info: ValidationInfo) -> str | None:
        # As a field's pattern it would say the same, and bring an engine for regular expressions along: 0.4 MB.
        shape = _SHAPES[str(info.field_name)]
        if value is not None and not re.match(shape.replace(r"\z", r"\Z"), value):
            raise PydanticKnownError("string_pattern_mismatch", {"pattern": shape})
        return value

    def shown(self) -> dict[str, Any]:
        """Every setting as JSON without floats; of a secret only whether it is set."""
        secret = {name for name in type(self).model_fields if isinstance(getattr(self, name), SecretStr)}
        dumped = self.model_dump(mode="json", exclude=secret)
        values = {name: str(value) if isinstance(value, float) else value for name, value in dumped.items()}
        # A password may stand in a URL.
        hidden = {name for name in ("log", "subject_keys") if "://" in (getattr(self, name) or "")}
        return values | dict.fromkeys(secret | hidden, "set")

    @property
    def in_database(self) -> bool:
        """Whether the log is not a directory."""
        return "://" in self.log

    @property
    def spool_path(self) -> Path:
        """Where the spool is. Raises `ConfigError`."""
        return self.spool or self._beside("spool")

    @property
    def key_path(self) -> Path:
        """Where the signing key is. Raises `ConfigError`."""
        return self.key or self._beside("key")

    @property
    def subject_keys_place(self) -> str:
        """Where the keys of persons are: a path or a URL. Raises `ConfigError`."""
        return self.subject_keys or str(self._beside("subjects"))

    @property
    def master_key_url(self) -> str:
        """The URL of the key over them. Raises `ConfigError`."""
        return self.master_key or f"file:{self._beside('master')}"

    def _beside(self, what: str) -> Path:
        if not self.in_database:
            return Path(f"{self.log.rstrip('/')}.{what}")
        if self.state is None:
            raise ConfigError(
                f"setting state is missing: the log is in a database, so pass state=... or set {PREFIX}STATE, a folder "
                "of this host for the spool, cursors and locks"
            )
        return self.state / ("signing.key" if what == "key" else what)


def load_settings(options: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Settings:
    """Checks names and values.

    Raises:
        ConfigError: with one line per finding: where, what is wrong, what was probably meant.
    """
    known = sorted(Settings.model_fields)
    findings = [_unknown(name, name, known) for name in options if name not in known]
    given: dict[str, Any] = {}
    for variable, value in sorted((os.environ if environment is None else environment).items()):
        upper = variable.upper()
        if upper.startswith(PREFIX) and not upper.startswith(_FOREIGN):
            name = upper.removeprefix(PREFIX).lower()
            given[name] = value
            if name not in known:
                findings.append(_unknown(variable, name, known))
    if findings:
        raise ConfigError("\n".join(findings))
    try:
        return Settings(**{**given, **options})
    except ValidationError as problem:
        raise ConfigError("\n".join(_finding(error) for error in problem.errors())) from None


def _unknown(shown: str, name: str, known: list[str]) -> str:
    from difflib import get_close_matches  # here: most settings are right

    near = get_close_matches(name, known, 1)
    prefix = PREFIX if shown.upper().startswith(PREFIX) else ""
    hint = f"did you mean {prefix}{near[0].upper() if prefix else near[0]}?" if near else f"known: {', '.join(known)}"
    return f"unknown setting {shown}: {hint}"


def _finding(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "missing":
        return f"setting {name} is missing: pass {name}=... or set {PREFIX}{name.upper()}"
    return f"setting {name}: {error['msg']}"  # never the value: a signing key must not be printed
