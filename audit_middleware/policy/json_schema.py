"""JSON Schemas (2020-12) of the policy language and of test files, for editors: completion, hints, first mistakes.

A schema sees one value at a time. Names that have to agree (roles, actions, rules, subjects), cycles, patterns that RE2
refuses, empty time windows and duplicate names are found by ``policy check`` and ``policy test`` alone. Everything that
loads is valid under the schema.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, get_args

from ..model import Cause
from ..persons import HOWS
from . import schema
from .channels import ADDRESS, CHANNEL_NAME, HOST, OPTIONS, VARIABLE, Option
from .fields import ALIASES, FIELDS, PARTS, TOKENS
from .operators import WINDOW
from .personal import WHOSE
from .profiles import PROFILES
from .reader import MAX_TEXT
from .routes import METHODS

__all__ = ["policy_schema", "policy_test_schema"]

Json = dict[str, Any]
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEXT: Json = {"type": "string", "minLength": 1, "maxLength": MAX_TEXT}
_SCALAR: Json = {"type": ["string", "number", "boolean"]}
_ATTRIBUTE = r"^(subject|resource|context)(\.[A-Za-z0-9_][A-Za-z0-9_:/@-]*)+$"
_NUMBER: Json = {"type": "number"}
_WORD: Json = {"type": "string", "minLength": 1}


def _object(
    properties: Mapping[str, Any], required: tuple[str, ...] = (), *, optional: bool = False, **more: Any
) -> Json:
    body: Json = {"type": ["object", "null"] if optional else "object", "properties": dict(properties)}
    return {**body, "required": list(required), "additionalProperties": False, **more}


def _map(values: Json, **more: Any) -> Json:
    return {"type": "object", "additionalProperties": values, **more}


def _list(items: Json, least: int = 0) -> Json:
    return {"type": "array", "items": items, "minItems": least, "uniqueItems": True}


def _one_or_list(item: Json) -> Json:
    return {"anyOf": [item, _list(item, 1)]}


def _ref(name: str) -> Json:
    return {"$ref": f"#/$defs/{name}"}


def _choice(options: tuple[str, ...], default: str, text: str) -> Json:
    return {"enum": list(options), "default": default, "description": text}


def _told(body: Json, text: str) -> Json:
    return {**body, "description": text}


# --- policies ----------------------------------------------------------------------------------------------------


def policy_schema() -> Json:
    """The schema of a policy file, as published in ``docs/policy.schema.json``."""
    properties: Json = {
        "version": {"const": schema.VERSION, "description": "The version of the language."},
        "name": {"type": "string", "pattern": f"^{schema.NAME.pattern}$", "description": "The policy's name."},
        "mode": _choice(schema.MODES, "enforce", "monitor: decide and record, but let every request pass."),
        "default": _choice(schema.DEFAULTS, "deny", "What holds where no rule allows, and for routes without action."),
        "roles": _told(_map(_ref("role"), propertyNames=_role_name()), "The roles, and what each inherits."),
        "actions": _told(_map(_ref("action"), propertyNames=_action_name()), "The actions, by name."),
        "routes": _told({"type": "array", "items": _ref("route")}, "Actions and exemptions for code without marks."),
        "channels": _told(
            _map(_ref("channel"), propertyNames={"pattern": f"^{CHANNEL_NAME.pattern}$"}), "Where notifications go."
        ),
        "redact": _ref("redact"),
        "personal": {
            "description": "What of a record is personal data, and what is done with it before it is recorded.",
            "anyOf": [_profile(), _personal(_told(_profile(), "What it starts from; the fields beside it win."))],
        },
    }
    return {
        "$schema": _DIALECT,
        "title": "Policy",
        "description": "Who may do what in a service, and how it is recorded.",
        **_object(properties, ("version", "name", "actions")),
        "$defs": {**_rule_definitions(), **_action_definitions(), **_other_definitions(), **_treatments()},
    }


def _role_name() -> Json:
    return {"pattern": r"^\S+( \S+)*$", "not": {"enum": list(schema.BUILT_IN_ROLES)}}


def _action_name() -> Json:
    return {"pattern": f"^{schema.ACTION_NAME.pattern}$"}


def _rule_definitions() -> Json:
    return {
        "role": _object({"inherits": _list(_TEXT)}, optional=True),
        "rule": {
            "description": "A role, or a rule with a name and roles, when or both.",
            "anyOf": [
                _TEXT,
                _object(
                    {
                        "name": _told(_TEXT, "Unique within the action; decisions and records name it."),
                        "roles": _told(_list(_TEXT, 1), "Who; anyone and authenticated are built in."),
                        "when": _ref("condition"),
                    },
                    ("name",),
                    anyOf=[{"required": ["roles"]}, {"required": ["when"]}],
                ),
            ],
        },
        "condition": _object(
            {
                "all": _told({"type": "array", "items": _ref("condition"), "minItems": 1}, "All of these hold."),
                "any": _told({"type": "array", "items": _ref("condition"), "minItems": 1}, "One of these holds."),
                "not": _told(_ref("condition"), "This does not hold."),
                "predicate": _told(_TEXT, "A function registered in Python."),
            },
            patternProperties={_ATTRIBUTE: {"anyOf": [_SCALAR, _ref("operators")]}},
            minProperties=1,
            description="Attributes of subject, resource and context, and what must hold for them; all entries must.",
        ),
        "operators": _object(
            {
                "equals": _SCALAR,
                "not_equals": _SCALAR,
                "same_as": _told({"type": "string", "pattern": _ATTRIBUTE}, "Equals another attribute."),
                **{name: _ref("scalars") for name in ("in", "not_in")},
                **dict.fromkeys(("lt", "lte", "gt", "gte"), _NUMBER),
                "matches": _told(_WORD, "An RE2 pattern that occurs in the text; anchor it with ^ and $."),
                "starts_with": _WORD,
                "ends_with": _WORD,
                "contains": _told(_SCALAR, "Is a list that has this element."),
                "exists": {"type": "boolean"},
                "in_cidr": _told(_one_or_list(_TEXT), "Is an address in a network, such as 10.9.0.0/16."),
                "between": {"type": "string", "pattern": f"^({WINDOW.pattern})$", "examples": ["08:00-18:00"]},
                "zone": _told(_TEXT, "The time zone of between, such as Europe/Berlin."),
            },
            minProperties=1,
            dependentRequired={"between": ["zone"], "zone": ["between"]},
        ),
        "scalars": {
            "anyOf": [
                {"type": "array", "items": {"type": kind}, "minItems": 1} for kind in ("string", "number", "boolean")
            ]
        },
    }


def _action_definitions() -> Json:
    rules = {"type": "array", "items": _ref("rule")}
    action = {
        "event": {"type": "string", "pattern": f"^{schema.EVENT_NAME.pattern}$", "examples": ["INVOICE_DELETED"]},
        "severity": _choice(schema.SEVERITIES, "low", "How much it matters that this is done."),
        "record": _choice(schema.LEVELS, "metadata", "Detail of allowed, successful requests."),
        "mode": _choice(schema.MODES, "enforce", "monitor: this action alone is not enforced."),
        "allow": _told(rules, "Any of these that holds allows."),
        "deny": _told(rules, "Any of these that holds denies, whatever allows."),
        "require": _ref("require"),
        "limit": _ref("limit"),
        "guarantee": _choice(schema.GUARANTEES, "after", "How sure the record is before the response."),
        "on_log_failure": _choice(schema.LOG_FAILURES, "deny", "What happens when the log cannot be written."),
        "personal": _told(_personal(), "What is treated more strictly than the policy says."),
        "notify": {
            "description": "Channels that hear of it, of all outcomes or of some.",
            "anyOf": [
                _list(_TEXT),
                _object(
                    {"channels": _list(_TEXT, 1), "outcomes": _list({"enum": [*schema.OUTCOMES]}, 1)}, ("channels",)
                ),
            ],
        },
    }
    require = {
        "mfa": {"type": "boolean"},
        "acr": _list(_TEXT),
        "auth_age": {"type": "string", "pattern": f"^{schema.DURATION.pattern}$", "examples": ["15m"]},
        "reason": {"anyOf": [{"type": "boolean"}, _object({"matches": _WORD}, ("matches",))]},
        "confirm": {"type": "boolean"},
    }
    limit = {
        "rate": {"type": "string", "pattern": f"^{schema.RATE.pattern}$", "examples": ["10/minute"]},
        "concurrent": {"type": "integer", "minimum": 1, "maximum": 1_000_000},
        "per": _choice(schema.PERS, "subject", "What is counted for itself."),
        "on_limit_error": _choice(("deny", "allow"), "deny", "What happens when it cannot be counted."),
    }
    return {
        "action": _object(action, optional=True),
        "require": _object(require, minProperties=1),
        "limit": _object(limit, anyOf=[{"required": ["rate"]}, {"required": ["concurrent"]}]),
    }


def _other_definitions() -> Json:
    methods = "|".join(method.replace("*", r"\*") for method in METHODS)
    route = {
        "match": {
            "type": "string",
            "pattern": rf"^({methods})(\|({methods}))* +(/\S*|default)$",
            "examples": ["GET /static/{path:path}"],
        },
        "action": _TEXT,
        "resource": _told(_TEXT, "With action: type/{parameter}."),
        "exempt": _told(_TEXT, "Why this route needs no action."),
        "until": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d$", "description": "The exemption's last day (UTC)."},
    }
    return {
        "route": _object(
            route,
            ("match",),
            oneOf=[{"required": ["action"]}, {"required": ["exempt"]}],
            dependentRequired={"resource": ["action"], "until": ["exempt"]},
        ),
        "channel": {
            "description": "Where notifications go.",
            "anyOf": [_channel(kind) for kind in schema.CHANNEL_TYPES],
        },
        "redact": _object(
            {
                "keys": _told(_list(_TEXT), "Field names, or dotted globs."),
                "patterns": _list({"anyOf": [{"enum": list(schema.REDACT_PATTERNS)}, {"pattern": "^re:."}]}),
            },
            description="What never reaches a record.",
        ),
    }


def _profile() -> Json:
    return {"enum": list(PROFILES)}


def _personal(profile: Json | None = None) -> Json:
    """Fields of a record by their names and aliases, and members of those that have any."""
    start: Json = {} if profile is None else {"profile": profile}
    aliases = {alias: path for alias, path in ALIASES.items() if path in FIELDS}
    named = {**{path: path for path in (*PARTS, *FIELDS)}, **aliases}
    fields = {name: _ref("identity" if path in TOKENS else "treatment") for name, path in named.items()}
    open_ones = [name for name, path in named.items() if FIELDS.get(path) in ("object", "json")]
    bodies = [path.removesuffix(".content") for path in FIELDS if path.endswith(".body.content")]
    below = "|".join(re.escape(name) for name in (*open_ones, *bodies) if name != "decision.inputs.values")
    members = {rf"^({below})\.[^.]": _ref("treatment")}
    return _object({**start, **fields}, minProperties=1, patternProperties=members)


def _treatments() -> Json:
    """What may be said of a field; ``token`` of those alone that identify somebody or something."""
    found: Json = {}
    for name, words in (("identity", HOWS), ("treatment", tuple(how for how in HOWS if how != "token"))):
        word = {"enum": list(words)}
        whole = _object({"as": word, "of": {"enum": list(WHOSE), "default": "subject"}}, ("as",))
        found[name] = {"description": "From weak to strict.", "anyOf": [word, whole]}
    return found


def _channel(kind: str) -> Json:
    options = OPTIONS[kind]
    login: Json = {"dependentRequired": {"username": ["password"], "password": ["username"]}} if kind == "email" else {}
    required = tuple(key for key, option in options.items() if option.required)
    values = {key: _told(_option(option), option.told) for key, option in options.items()}
    return _object({"type": {"const": kind}, **values}, ("type", *required), **login)


def _option(option: Option) -> Json:
    reference = rf"^({VARIABLE.pattern}|file:.+)$"
    address = {"type": "string", "pattern": f"^{ADDRESS.pattern}$"}
    found: Mapping[str, Json] = {
        "secret": {"type": "string", "pattern": reference, "examples": ["${VARIABLE}", "file:PATH"]},
        "url": {"anyOf": [{"type": "string", "pattern": r"^https?://"}, {"type": "string", "pattern": reference}]},
        "text": {"type": "string", "pattern": f"^{HOST.pattern}$"},
        "path": _TEXT,
        "address": address,
        "addresses": _list(address, 1),
        "flag": {"type": "boolean"},
        "word": {"enum": list(option.words), "default": next(iter(option.words), "")},
        "number": {"type": "integer", "minimum": 1, "maximum": option.most},
    }
    return found[option.kind]


# --- test files --------------------------------------------------------------------------------------------------


_MOMENT: Json = {
    "type": "string",
    "pattern": r"^\d.*[T ].*(Z|[+-]\d\d(:?\d\d(:?\d\d)?)?)$",
    "examples": ["2026-01-05T09:00:00Z"],
}


def policy_test_schema() -> Json:
    """The schema of a test file, as published in ``docs/policy-test.schema.json``."""
    properties = {
        "policy": _told(_TEXT, "The policy's file, where several lie in one folder."),
        "now": _told(_MOMENT, "context.time of every test."),
        "subjects": _map(_ref("subject"), propertyNames={"not": {"const": "nobody"}}),
        "resources": _map(_ref("resource")),
        "tests": {"type": "array", "items": _ref("test"), "minItems": 1},
        "never": _told(_one_or_list(_ref("never")), "What no role reaches, whatever its attributes."),
        "personal": _told(_one_or_list(_ref("personal")), "What is done with personal data, at least."),
    }
    return {
        "$schema": _DIALECT,
        "title": "Policy tests",
        "description": "What a policy must decide: a matrix of subjects, actions and resources.",
        **_object(properties, anyOf=[{"required": [key]} for key in ("tests", "never", "personal")]),
        "$defs": {**_test_definitions(), **_treatments()},
    }


def _test_definitions() -> Json:
    subject = {
        "id": _TEXT,
        "type": _TEXT,
        "roles": _told(_list(_TEXT), "Roles of the policy."),
        "tenant": _TEXT,
        "session": _TEXT,
        "mfa": _told({"type": "boolean"}, "Signed in with more than one factor."),
        "acr": _told(_TEXT, "The authentication context class."),
        "auth_time": _told(_MOMENT, "When the caller last signed in."),
        "properties": {"type": "object"},
    }
    resource = {"type": _TEXT, "id": _TEXT, "properties": {"type": "object"}}
    case = {
        "name": _told(_TEXT, "Unique in the file."),
        "subjects": _list(_TEXT, 1),
        "actions": _list(_TEXT, 1),
        "resources": _list(_TEXT, 1),
        "context": _told({"type": "object", "properties": {"time": False}}, "context.* attributes; not the time."),
        "reason": _told(_TEXT, "The reason that the requests give."),
        "confirm": _told({"anyOf": [{"type": "boolean"}, _TEXT]}, "true: they repeat what they are about; or a text."),
        "now": _MOMENT,
        "skip": _told(_TEXT, "Why it does not run."),
        "expect": _told({"type": "array", "items": _ref("expect")}, "What is not listed is expected to be denied."),
    }
    expect = {
        "subject": _one_or_list(_TEXT),
        "resource": _one_or_list(_TEXT),
        "actions": _map(_ref("expectation")),
    }
    by = _told(_TEXT, f"A rule's name, or a cause: {', '.join(get_args(Cause))}.")
    requirements = _one_or_list({"enum": list(schema.REQUIRE_KEYS)})
    missing = _object({"missing": _told(requirements, "All requirements that are not met.")}, ("missing",))
    never = _object({"roles": _one_or_list(_TEXT), "reach": _one_or_list(_TEXT)}, ("roles", "reach"))
    return {
        "subject": _object(subject, ("id",)),
        "resource": _object(resource),
        "test": _object(case, ("name", "subjects", "actions", "expect")),
        "expect": _object(expect, ("actions",)),
        "expectation": {
            "anyOf": [
                {"enum": ["allow", "deny"]},
                _object({"allow": by}, ("allow",)),
                _object({"deny": {"anyOf": [by, missing]}}, ("deny",)),
            ]
        },
        "never": never,
        "fields": {"anyOf": [_profile(), _personal(_profile())]},
        "personal": {
            "description": "A profile or fields, in all actions or in some.",
            "anyOf": [_ref("fields"), _object({"fields": _ref("fields"), "actions": _one_or_list(_TEXT)}, ("fields",))],
        },
    }
