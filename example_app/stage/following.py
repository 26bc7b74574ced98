"""What follows the demo's log: a configuration as a user writes it, and what arrived by it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from .errors import Surprise
from .receivers import SECRET, Receivers
from .teller import Teller

SECRETS = {"ONCALL_SECRET": SECRET}
"""Secrets stand in the environment, never in the file."""

RULES = ("refused-refunds", "findings")
"""The rules by which the demo is told, in that order."""

_TOKEN = re.compile(r"(token\.v1\.[a-z2-7]{6})[a-z2-7]{20}")

_CONFIGURATION = """\
version: 1
followers:
  - {{name: lake, type: jsonl, directory: '{folder}/shipped', format: ocsf}}
  - {{name: search, type: jsonl, directory: '{folder}/search', format: ecs}}
  - {{name: siem, type: syslog, host: 127.0.0.1, port: {syslog_port}, transport: tcp, format: cef}}
  - {{name: watch, type: detectors}}
notifications:
  personal: open
  because: who is on call has to know whom it is about
  channels:
    oncall:
      type: webhook
      url: http://127.0.0.1:{webhook_port}/
      secret: ${{ONCALL_SECRET}}
      allow_private: true
  rules:
    - {{name: refused-refunds, when: {{actions: ['refund.*'], outcome: [denied]}}, notify: [oncall]}}
    - {{name: findings, when: {{actions: [audit.finding], severity: high}}, notify: [oncall]}}
"""


def configure(folder: Path, receivers: Receivers) -> Path:
    """Writes the followers' configuration."""
    file = folder / "followers.yaml"
    ports = {"syslog_port": receivers.syslog_port, "webhook_port": receivers.webhook_port}
    file.write_text(_CONFIGURATION.format(folder=folder.resolve(), **ports))
    return file


def wait(receivers: Receivers) -> None:
    """Returns when the refusal and what a detector found were told."""
    for rule in RULES:
        _told(receivers, rule)


def tell(folder: Path, receivers: Receivers, action_id: str, teller: Teller) -> None:
    """Shows one record in the three formats it was sent in, and the messages that were signed."""
    ocsf = _line(folder / "shipped", action_id)
    said = f"class {ocsf['class_uid']}, action_id {ocsf['action_id']}, disposition_id {ocsf['disposition_id']}"
    teller.note(f"OCSF, in a file:   {said}, {ocsf['api']['operation']} by {_short(ocsf['actor']['user']['uid'])}")
    ecs = _line(folder / "search", action_id)
    said = f"event.outcome {ecs['event']['outcome']}, event.type {'+'.join(ecs['event']['type'])}"
    teller.note(f"ECS, in a file:    {said}, {ecs['event']['action']} by {_short(ecs['user']['id'])}")
    cef = receivers.message(action_id)
    if cef is None:
        raise Surprise("the refusal did not arrive by syslog")
    header, _, fields = cef[cef.index("CEF:0") :].rpartition("|")
    shown = [field for field in fields.split(" ") if field.startswith(("suser=", "outcome=", "src="))]
    teller.note(f"CEF, over syslog:  {header}| {_short(' '.join(shown))} ...")
    teller.blank()
    for rule in RULES:
        data = _told(receivers, rule)["data"]
        teller.note(f"Signed webhook, signature verified: {data['title']}")
    if receivers.forged:
        raise Surprise(f"{receivers.forged} webhooks came with a signature that is wrong")


def _short(text: str) -> str:
    """A text for a screen, whose tokens are cut as commands cut them."""
    return _TOKEN.sub(r"\1…", text)


def _told(receivers: Receivers, rule: str) -> dict[str, Any]:
    told = receivers.webhook(rule)
    if told is None:
        raise Surprise(f"no webhook of the rule {rule} arrived; {receivers.forged} came with a wrong signature")
    return told


def _line(folder: Path, action_id: str) -> dict[str, Any]:
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if action_id in line:
                found: dict[str, Any] = json.loads(line)
                return found
    raise Surprise(f"no file in {folder} holds the record {action_id}")
