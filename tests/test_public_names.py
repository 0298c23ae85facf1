"""The public surface: what `import smtpconn` offers, how cheaply, and with which signatures (design section 4)."""

from __future__ import annotations

import ast
import inspect
import pathlib
import pickle
import subprocess
import sys

import pytest

import smtpconn
from smtpconn import ConnectionPool, Lease, MailOutcome, Sender, SmtpConnection, SmtpError


def _names_for_type_checkers() -> set[str]:
    tree = ast.parse(pathlib.Path(smtpconn.__file__).read_text(encoding="utf-8"))
    guarded = next(node for node in tree.body if isinstance(node, ast.If))
    return {alias.name for node in guarded.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_every_public_name_is_there_and_type_checkers_see_the_same_ones() -> None:
    assert _names_for_type_checkers() == set(smtpconn.__all__)
    for name in smtpconn.__all__:
        assert getattr(smtpconn, name).__name__ == name
        assert name in dir(smtpconn)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        smtpconn.no_such_name  # noqa: B018  # the access is what is tested


def test_importing_smtpconn_loads_neither_ssl_nor_socket_nor_the_heavy_dependencies() -> None:
    """D16: shell names are resolved lazily (PEP 562)."""
    code = (
        "import sys, smtpconn; heavy = {'ssl', 'socket', 'email.message', 'dns', 'cryptography', 'certifi', 'asyncio'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:  # -S hides site-packages where the wheel is installed: then without it
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(n for n in smtpconn.__all__ if n.endswith("Error")))
def test_every_exception_is_documented_and_belongs_to_the_family(name: str) -> None:
    cls = getattr(smtpconn, name)
    assert issubclass(cls, SmtpError)
    assert cls.__doc__


_SEND = ["sender", "recipients", "message", "timeout", "params", "newlines", "size"]
_VERBS = {
    "send": _SEND,
    "send_bdat": _SEND,
    "send_message": ["email_message", "timeout", "sender", "recipients", "params"],
    "vrfy": ["address", "timeout"],
    "expn": ["name", "timeout"],
    "help": ["topic", "timeout"],
    "noop": ["timeout"],
}
_CONNECTION_VERBS = {
    **_VERBS,
    "send_lmtp": _SEND,
    "send_lmtp_bdat": _SEND,
    "send_many": ["mails", "timeout"],
    "reset": ["timeout"],
    "rehlo": ["timeout"],
    "quit": ["timeout"],
    "auth": ["credentials", "timeout"],
    "auth_plain": ["user", "password", "timeout", "authzid"],
    "auth_login": ["user", "password", "timeout"],
    "auth_scram": ["user", "password", "timeout"],
    "auth_xoauth2": ["user", "token", "timeout"],
    "auth_oauthbearer": ["token", "timeout", "user"],
}


def _parameters(function: object) -> dict[str, inspect.Parameter]:
    parameters = dict(inspect.signature(function).parameters)  # type: ignore[arg-type]  # any callable
    parameters.pop("self", None)
    return parameters


@pytest.mark.parametrize("verb", sorted(_CONNECTION_VERBS))
def test_a_verb_of_a_connection_requires_a_timeout_by_keyword(verb: str) -> None:
    """D3, U12: no verb of `SmtpConnection` has a default timeout; E78: no verb has a second list of parameters."""
    parameters = _parameters(getattr(SmtpConnection, verb))
    assert list(parameters) == _CONNECTION_VERBS[verb]
    assert parameters["timeout"].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["timeout"].default is inspect.Parameter.empty


@pytest.mark.parametrize("cls", [ConnectionPool, Lease])
@pytest.mark.parametrize("verb", sorted(_VERBS))
def test_a_verb_of_the_pool_has_the_same_arguments_and_the_pools_timeout_as_default(cls: type, verb: str) -> None:
    parameters = _parameters(getattr(cls, verb))
    assert list(parameters) == _VERBS[verb]
    assert parameters["timeout"].default is None


def test_connect_has_the_arguments_of_the_contract() -> None:
    assert list(_parameters(SmtpConnection.connect)) == [
        "host", "port", "tls_mode", "timeout", "tls_config", "credentials", "ehlo_domain", "source_address", "dial",
        "pipelining", "policy", "audit", "allow_plaintext_auth",
    ]  # fmt: skip


def test_the_pool_has_the_arguments_and_defaults_of_the_contract() -> None:
    parameters = _parameters(ConnectionPool.__init__)
    assert list(parameters)[:3] == ["host", "port", "tls_mode"]
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    expected = {
        "protocol": "smtp", "unix_socket": None, "credentials": None, "tls_config": None, "max_size": 4, "min_size": 0,
        "max_waiting": None, "max_connecting": 2, "acquire_timeout": 30.0, "max_idle": 45.0, "max_age": 300.0,
        "max_messages": 100, "probe_after": 15.0, "ehlo_domain": None, "source_address": None, "dial": None,
        "policy": None, "audit": None, "allow_plaintext_auth": False, "on_event": None, "track_leases": False,
        "name": None,
    }  # fmt: skip
    assert {name: defaults[name] for name in expected} == expected


@pytest.mark.parametrize("cls", [SmtpConnection, Lease, ConnectionPool])
def test_connection_lease_and_pool_are_senders(cls: type) -> None:
    for verb in ("send", "send_message"):
        assert set(_parameters(getattr(cls, verb))) == set(_parameters(getattr(Sender, verb)))


def test_help_of_the_package_names_where_to_start() -> None:
    text = inspect.getdoc(smtpconn) or ""
    assert "ConnectionPool" in text
    assert "SmtpConnection" in text


def test_errors_pickle_with_everything_they_say() -> None:
    error = smtpconn.PoolTimeoutError("late", holders=[("worker", 1.5)], retry_after=2.0)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301  # our own octets
    assert (copy.args, copy.holders, copy.retry_after, copy.stage) == (("late",), (("worker", 1.5),), 2.0, "pool")


def test_an_outcome_is_made_of_its_mail() -> None:
    assert set(inspect.signature(MailOutcome).parameters) == {"index", "mail", "result", "error"}
