"""Every exception this package raises, as one tree.

::

    AuditError                    the root: catch this to catch all of ours
    ├── ConfigError               a setting, policy or key is wrong: the service must not start
    │   ├── PolicyError           the policy file: file, line, key, nearest valid name
    │   ├── RouteError            routes and policy do not fit together (the inventory's findings)
    │   ├── KeyFileError          a signing key that is missing, malformed or readable by others
    │   └── MasterKeyError        the key over all persons' keys is missing, malformed or another one
    ├── DecisionError             a decision could not be computed: the request is denied, cause "error"
    │   ├── ConditionError        a condition met a missing attribute or a wrong type
    │   ├── ResolutionError       the router's choice could not be determined
    │   ├── IdentityError         a credential was offered and does not verify
    │   ├── IdentityUnavailable   the identity provider could not be asked
    │   ├── AttributesError       a resource's properties or the body that a rule reads could not be had
    │   └── LimitUnavailable      what counts a limit could not be asked
    ├── RouteMismatch             the router selected another endpoint than the one decided on
    ├── RecordError               a record breaks the schema, the canonical form or the size limit
    ├── FormatError               bytes that are not the format they should be
    │   ├── NoteError             signed note, verifier key or signer key
    │   ├── ProofError            an inclusion or consistency proof that does not hold
    │   ├── TimestampError        a time stamp that does not hold for what it is said to stamp
    │   └── AuthzenError          an access evaluation request of the wrong shape
    ├── AnchorUnavailable         a witness or time stamp authority gave no answer that can be used
    ├── ArchiveError              an archive cannot be reached, or does not do what an archive must
    │   └── ArchiveConflict       an object of this name is there with other bytes; it is immutable
    ├── FollowerError             a follower's configuration, cursor or destination is not as it must be
    ├── SubjectKeysError          the store of persons' keys cannot be read or written: nothing is recorded in clear
    ├── SubjectRestricted         a person's data is held, so that it must not be erased
    ├── BlocksError               the list of who is blocked cannot be read, or is another log's
    └── StoreError                the log cannot be read or written
        ├── LogNotFound           no log there; it is made by `init`, never by a typo
        ├── LogExists             `init` on a log that exists
        ├── EntriesPruned         entries whose retention ended are gone; a record of the log says so
        ├── LogDamaged            bytes below the head are not what was committed
        ├── LogForked             two histories under one origin
        ├── LogBusy               the lock or the queue did not free up in time
        ├── Overtaken             somebody else has replaced what this process was about to replace
        └── LogUnavailable        the writer is poisoned or the disk refuses: guarded actions get 503
            └── LogSpooled        the record is durable, but in the spool: no signature covers it yet

Messages say what is wrong, where, and what to do. None carries a secret or a request's content.
"""

from __future__ import annotations


class AuditError(Exception):
    """Root of all exceptions of this package."""


class ConfigError(AuditError):
    """A setting, policy or key is wrong; the service must not start with it."""


class PolicyError(ConfigError):
    """The policy file is wrong. The message holds every finding, one a line: ``file:line: key: text``."""


class RouteError(ConfigError):
    """The application's routes and the policy do not fit together."""


class KeyFileError(ConfigError):
    """A key file is missing, malformed, or readable by others."""


class MasterKeyError(ConfigError):
    """The key that wraps all persons' keys is missing, malformed, or not the one that the store was made with."""


class DecisionError(AuditError):
    """A decision could not be computed; it becomes a denial with cause ``error``."""


class ConditionError(DecisionError):
    """A condition met a missing attribute or a value of the wrong type."""


class ResolutionError(DecisionError):
    """Which route will run could not be determined."""


class IdentityError(DecisionError):
    """A credential was offered and does not verify: the caller is nobody (401)."""


class IdentityUnavailable(DecisionError):
    """The identity provider could not be asked: the request is refused (503)."""


class AttributesError(DecisionError):
    """A resource's properties, or the body that a rule reads, could not be had; the message holds no value of them."""


class LimitUnavailable(DecisionError):
    """What counts a limit could not be asked; the policy's ``on_limit_error`` decides."""


class RouteMismatch(AuditError):
    """The router selected another endpoint than the one the decision was about."""


class RecordError(AuditError):
    """A record breaks the schema, the canonical form or the entry size limit."""


class FormatError(AuditError):
    """Bytes that are not the format they should be."""


class NoteError(FormatError):
    """A signed note, verifier key or signer key is malformed or does not verify."""


class ProofError(FormatError):
    """An inclusion or consistency proof is malformed or does not hold."""


class TimestampError(FormatError):
    """A time stamp is malformed, over other bytes, or not by an authority that is trusted."""


class AuthzenError(FormatError):
    """An AuthZEN access evaluation request does not have the shape of one; the message names the member."""


class AnchorUnavailable(AuditError):
    """A witness or a time stamp authority could not be reached, or gave no answer that can be used."""


class ArchiveError(AuditError):
    """An archive cannot be reached, refuses, or does not keep what was given to it."""


class ArchiveConflict(ArchiveError):
    """An archive holds other bytes under the name of an immutable object; one of the two was altered."""


class FollowerError(AuditError):
    """A follower's configuration, cursor or destination is not as it must be; the log itself is not concerned."""


class SubjectKeysError(AuditError):
    """The store of persons' keys cannot be read or written, or is another log's; nothing is recorded in clear."""


class SubjectRestricted(AuditError):
    """A person's data is under a legal hold: it must not be erased before that ends."""


class BlocksError(AuditError):
    """The list of who is blocked cannot be read, is damaged, or is another log's."""


class StoreError(AuditError):
    """The log cannot be read or written."""


class LogNotFound(StoreError):
    """There is no log at this place; logs are created by ``init`` only."""


class LogExists(StoreError):
    """``init`` was called on a place that already holds a log."""


class EntriesPruned(StoreError):
    """What was asked for lies below the log's base: it was removed, which a record of the log says."""


class LogDamaged(StoreError):
    """Bytes below the head are not what was committed; writing stops."""


class LogForked(StoreError):
    """Two different histories exist under one origin; writing stops."""


class LogBusy(StoreError):
    """The log's lock or the writer's queue did not free up within the set time."""


class Overtaken(StoreError):
    """Another process has replaced what this one was about to replace, such as the place where a follower stands."""


class LogUnavailable(StoreError):
    """The log cannot take records now (poisoned writer, full disk); guarded actions are refused."""


class LogSpooled(LogUnavailable):
    """The record is on disk in the spool and will be sent to the log; no signature covers it yet."""
