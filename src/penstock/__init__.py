"""Penstock: a persistent, partitioned message queue that speaks the Kafka wire protocol.

This module loads nothing by itself: `import penstock.protocol` stays light, and public names are resolved on first
use (PEP 562), each from the module that holds it. Type checkers read the imports, the interpreter reads `_HOMES`; a test holds
that both tell the same.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from penstock.client.admin import Admin as Admin
    from penstock.client.admin_values import ConfigChange as ConfigChange
    from penstock.client.admin_values import ConfigEntry as ConfigEntry
    from penstock.client.admin_values import ConfigOperation as ConfigOperation
    from penstock.client.admin_values import ConfigResource as ConfigResource
    from penstock.client.admin_values import CreatedTopic as CreatedTopic
    from penstock.client.admin_values import FoundOffset as FoundOffset
    from penstock.client.admin_values import NewTopic as NewTopic
    from penstock.client.admin_values import ResourceKind as ResourceKind
    from penstock.client.errors import AuthorizationFailed as AuthorizationFailed
    from penstock.client.errors import BootstrapFailed as BootstrapFailed
    from penstock.client.errors import BrokerError as BrokerError
    from penstock.client.errors import OffsetOutOfRange as OffsetOutOfRange
    from penstock.client.errors import RequestOutcomeUnknown as RequestOutcomeUnknown
    from penstock.client.errors import TopicExists as TopicExists
    from penstock.client.errors import UnknownTopic as UnknownTopic
    from penstock.client.errors import UnsupportedByBroker as UnsupportedByBroker
    from penstock.client.metadata import TopicPartition as TopicPartition
    from penstock.errors import PenstockError as PenstockError
    from penstock.protocol.errors import ErrorCode as ErrorCode
    from penstock.runtime.network import AddressError as AddressError
    from penstock.runtime.network import ConnectionLost as ConnectionLost
    from penstock.testing.broker import Broker as Broker
else:
    _HOMES = {
        "AddressError": "penstock.runtime.network",
        "Admin": "penstock.client.admin",
        "AuthorizationFailed": "penstock.client.errors",
        "BootstrapFailed": "penstock.client.errors",
        "Broker": "penstock.testing.broker",
        "BrokerError": "penstock.client.errors",
        "ConfigChange": "penstock.client.admin_values",
        "ConfigEntry": "penstock.client.admin_values",
        "ConfigOperation": "penstock.client.admin_values",
        "ConfigResource": "penstock.client.admin_values",
        "ConnectionLost": "penstock.runtime.network",
        "CreatedTopic": "penstock.client.admin_values",
        "ErrorCode": "penstock.protocol.errors",
        "FoundOffset": "penstock.client.admin_values",
        "NewTopic": "penstock.client.admin_values",
        "OffsetOutOfRange": "penstock.client.errors",
        "PenstockError": "penstock.errors",
        "RequestOutcomeUnknown": "penstock.client.errors",
        "ResourceKind": "penstock.client.admin_values",
        "TopicExists": "penstock.client.errors",
        "TopicPartition": "penstock.client.metadata",
        "UnknownTopic": "penstock.client.errors",
        "UnsupportedByBroker": "penstock.client.errors",
    }

    def __getattr__(name):
        """Import a public name on its first use."""
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(home), name)
        globals()[name] = value
        return value

    def __dir__():
        """The public names too, before their first use."""
        return sorted({*globals(), *_HOMES})


__all__ = [
    "AddressError",
    "Admin",
    "AuthorizationFailed",
    "BootstrapFailed",
    "Broker",
    "BrokerError",
    "ConfigChange",
    "ConfigEntry",
    "ConfigOperation",
    "ConfigResource",
    "ConnectionLost",
    "CreatedTopic",
    "ErrorCode",
    "FoundOffset",
    "NewTopic",
    "OffsetOutOfRange",
    "PenstockError",
    "RequestOutcomeUnknown",
    "ResourceKind",
    "TopicExists",
    "TopicPartition",
    "UnknownTopic",
    "UnsupportedByBroker",
    "__version__",
]
