"""The channels by the name of their type: what reads the settings of each. Their keys are those of the policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from .apprise import read_apprise
from .given import Given
from .pagerduty import read_pagerduty
from .seam import Channel
from .slack import read_slack
from .smtp import read_email
from .webhook import read_webhook

CHANNELS: Mapping[str, Callable[[Given], Channel]] = MappingProxyType(
    {
        "webhook": read_webhook,
        "slack": read_slack,
        "pagerduty": read_pagerduty,
        "email": read_email,
        "apprise": read_apprise,
    }
)
