"""The policy: a YAML file that says who may do what, loaded strictly and evaluated as a pure function.

`load` and `loads` give a `Policy`; `Policy.evaluate` decides, `Policy.route` looks up code that cannot be annotated.
`audit_middleware.policy.suite` runs a policy's tests; `explain`, `lint`, `matrix`, `diff` and `mutate` analyse it, by
means of `logic`; `authzen` and `json_schema` are its faces to others. The language is described in ``docs/policy.md``.
"""

from .evaluate import CompiledAction, CompiledRule, Policy
from .load import load, loads
from .routes import RouteEntry
from .schema import ENFORCED, Redaction

__all__ = ["ENFORCED", "CompiledAction", "CompiledRule", "Policy", "Redaction", "RouteEntry", "load", "loads"]
