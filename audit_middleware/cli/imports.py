"""What commands import of the service: its application, and the predicates that its policy names."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from inspect import isfunction
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from starlette.routing import Router

from ..frameworks.starlette import inner_router
from ..policy.conditions import PredicateFunction
from ..policy.evaluate import Policy
from ..policy.load import load
from .output import fail

PREDICATES = Annotated[
    str | None,
    typer.Option(
        "--predicates",
        help="The Python predicates that the policy names, MODULE or MODULE:NAME: a mapping, or a module of functions.",
        show_default=False,
    ),
]


def load_policy(path: Path, predicates: str | None) -> Policy:
    """The policy as the service has it, with the predicates of `PREDICATES`."""
    return load(path, predicates=load_predicates(predicates))


def load_predicates(target: str | None) -> Mapping[str, PredicateFunction]:
    """The functions of ``MODULE`` or ``MODULE:NAME`` by name; nothing for ``None``.

    Of a module these are the functions that it defines itself and that do not start with an underscore.
    """
    if target is None:
        return {}
    found = imported(target)
    if isinstance(found, ModuleType):
        own = {name: value for name, value in vars(found).items() if isfunction(value) and not name.startswith("_")}
        found = {name: function for name, function in own.items() if function.__module__ == found.__name__}
    if not isinstance(found, Mapping) or not found:
        fail(f"--predicates {target}: expected a mapping from names to functions, or a module that defines some")
    for name, function in found.items():
        if not isinstance(name, str) or not callable(function):
            fail(f"--predicates {target}: {name!r} is no function under a name")
    return dict(found)


def load_router(target: str) -> Router:
    """The router of ``MODULE:APP``."""
    found = imported(target if ":" in target else f"{target}:app")
    router = inner_router(found() if callable(found) and inner_router(found) is None else found)
    if router is None:
        fail(f"{target} is neither a Starlette nor a FastAPI application")
    return router


def imported(target: str) -> Any:
    """``MODULE`` or ``MODULE:NAME``, imported as a server would from the current folder."""
    module_name, _, attribute = target.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for name in attribute.split(".") if attribute else ():
            found = getattr(found, name)
    except (ImportError, AttributeError, ValueError) as problem:
        fail(f"{target} cannot be loaded: {problem}")
    return found
