"""Test kit: a loopback SMTP/LMTP server with faults on demand, a counting relay, a scripted transport, a throw-away CA.

`Outbox` is a server in memory, and `smtpconn.testing.plugin` gives all of it to pytest as fixtures.

It shares no code with the client library, so that neither can hide the other's mistakes. Names are loaded when first
used; importing this package imports nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .ca import Issued, TestAuthority
    from .captured import CapturedMail, Ledger, LedgerEntry, SessionRecord, TlsRecord
    from .clock import FakeClock
    from .conversation import EOF, RESET, SILENCE, TLS, Script, ScriptMismatch, Wait, script
    from .faults import KINDS, STAGES, Rule
    from .options import DEFAULT_EXTENSIONS, QUIRKS, ServerOptions
    from .outbox import MemoryTransport, Outbox
    from .plugin import ServerFactory
    from .process import ServerProcess
    from .relay import Relay, RelayedConnection
    from .scripted import ScriptedTransport
    from .server import LoopbackServer

__all__ = [
    "LoopbackServer", "ServerOptions", "DEFAULT_EXTENSIONS", "QUIRKS", "STAGES", "KINDS", "Rule",
    "CapturedMail", "SessionRecord", "TlsRecord", "Ledger", "LedgerEntry",
    "TestAuthority", "Issued", "Relay", "RelayedConnection", "ServerProcess",
    "ScriptedTransport", "script", "Script", "ScriptMismatch", "EOF", "RESET", "SILENCE", "TLS", "Wait", "FakeClock",
    "Outbox", "MemoryTransport", "ServerFactory",
]  # fmt: skip

_HOMES = {
    "server": ("LoopbackServer",),
    "options": ("ServerOptions", "DEFAULT_EXTENSIONS", "QUIRKS"),
    "faults": ("STAGES", "KINDS", "Rule"),
    "captured": ("CapturedMail", "SessionRecord", "TlsRecord", "Ledger", "LedgerEntry"),
    "ca": ("TestAuthority", "Issued"),
    "relay": ("Relay", "RelayedConnection"),
    "process": ("ServerProcess",),
    "scripted": ("ScriptedTransport",),
    "conversation": ("script", "Script", "ScriptMismatch", "EOF", "RESET", "SILENCE", "TLS", "Wait"),
    "clock": ("FakeClock",),
    "outbox": ("Outbox", "MemoryTransport"),
    "plugin": ("ServerFactory",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{home}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
