"""`EmailBackend`: Django's mails through a pool of connections (users 8). Needs `pip install smtpconn[django]`.

Knows how a Django of each line is configured (`EMAIL_*` and `SMTPCONN`, or MAILERS) and what it calls addresses and
octets; what a batch is, is in `backends`. What differs between the lines is found by looking, not by version numbers.
"""

from __future__ import annotations

import email
import email.policy
import inspect
import logging
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.mail import message as django_message
from django.core.mail.backends import smtp as django_smtp
from django.core.mail.backends.base import BaseEmailBackend
from django.core.mail.utils import DNS_NAME
from django.core.signals import setting_changed
from django.dispatch import Signal
from django.utils.encoding import force_str

from smtpconn.contrib import arguments
from smtpconn.contrib.backends import Outgoing, PooledBackend, close_pools, registry
from smtpconn.contrib.configuration import (
    OWN_OPTIONS,
    Configuration,
    check_own,
    default_port,
    mailer_options,
)
from smtpconn.protocol.result import SendResult

__all__ = ["EmailBackend", "close_pools", "mailer_options", "message_sent"]

_log = logging.getLogger("smtpconn.contrib.django")


class _Sent(Signal):
    """A receiver that raises changes no outcome, and is told by a WARNING.

    Django's own record is an ERROR, which a handler that mails errors would mail, and so on for ever (LG6).
    """

    def _log_robust_failure(self, receiver: Any, error: BaseException) -> None:
        name = getattr(receiver, "__qualname__", type(receiver).__name__)
        _log.warning("a receiver of message_sent failed: %s", name, exc_info=error)


message_sent = _Sent()
"""Sent for each message that went out: `sender` (the class), `message`, `result` (a `SendResult`), `alias`."""


class EmailBackend(PooledBackend, BaseEmailBackend):
    """Django's e-mail backend over a pool of the process: the arguments of Django's own, and the options of `OPTIONS`.

    Without `alias` what is None comes from `EMAIL_*`, the further options from the setting `SMTPCONN`. With `alias`
    (MAILERS) neither is read. Raises `InvalidMailer`, `ImproperlyConfigured` or `ValueError`; opens nothing.
    """

    def __init__(
        self,
        host: str | None = None,
        port: int | None = None,
        username: str | None = None,
        password: str | None = None,
        use_tls: bool | None = None,
        fail_silently: bool = False,
        use_ssl: bool | None = None,
        timeout: float | None = None,
        ssl_keyfile: str | None = None,
        ssl_certfile: str | None = None,
        **kwargs: Any,
    ) -> None:
        own = {name: kwargs.pop(name) for name in OWN_OPTIONS if name in kwargs}
        super().__init__(**kwargs)
        self.fail_silently = fail_silently
        self.alias: str | None = getattr(self, "alias", None)  # a Django with MAILERS has set it
        given: dict[str, Any] = {
            "host": host, "port": port, "username": username, "password": password, "use_tls": use_tls,
            "use_ssl": use_ssl, "timeout": timeout, "ssl_keyfile": ssl_keyfile, "ssl_certfile": ssl_certfile,
        }  # fmt: skip
        if self.alias is None:
            own = {**_own_settings(), **own}
            given = _from_settings(given)
        self.host, self.port, self.timeout = given["host"], given["port"], given["timeout"]
        self.username, self.password = given["username"], given["password"]
        self.use_tls, self.use_ssl = bool(given["use_tls"]), bool(given["use_ssl"])
        self.ssl_keyfile, self.ssl_certfile = given["ssl_keyfile"], given["ssl_certfile"]
        self._check(own)
        if self.port is None:
            self.port = default_port(use_tls=self.use_tls, use_ssl=self.use_ssl)
        try:
            configuration = Configuration(self._account(), own, DNS_NAME.get_fqdn)
        except (TypeError, ValueError) as error:
            raise self._misconfigured(str(error)) from error
        self._set_up(configuration, self.alias or configuration.name)

    def _check(self, own: Mapping[str, Any]) -> None:
        if self.use_tls and self.use_ssl:
            text = "use_tls (STARTTLS) and use_ssl (implicit TLS) exclude each other: set one of them"
            raise ValueError(text) if self.alias is None else self._misconfigured(text)
        if not self.host and not own.get("unix_socket"):
            raise self._misconfigured("'host' is needed")

    def _misconfigured(self, text: str) -> Exception:
        if self.alias is None:
            improper: Exception = ImproperlyConfigured(text)
            return improper
        from django.core.mail import InvalidMailer  # where there is an alias, there is this

        misconfigured: Exception = InvalidMailer(text, alias=self.alias)
        return misconfigured

    def _outgoing(self, message: Any) -> Outgoing:
        international = self._configuration.smtputf8
        encoding = getattr(message, "encoding", None) or settings.DEFAULT_CHARSET
        sender = self.prep_address(message.from_email, encoding, force_ascii=not international)
        recipients = [
            self.prep_address(address, encoding, force_ascii=not international) for address in message.recipients()
        ]
        is_ascii = all(map(str.isascii, (sender, *recipients)))
        policy = email.policy.SMTP if is_ascii else email.policy.SMTPUTF8
        if "policy" in inspect.signature(type(message).message).parameters:
            built = message.message(policy=policy)
            octets = built.as_bytes()
        else:
            built = message.message()
            octets = built.as_bytes(linesep="\r\n")
            if not is_ascii:
                octets = _with_addresses_as_given(octets, message)
        return Outgoing(sender, recipients, octets, str(built.get("Message-ID", "-")))

    def prep_address(self, address: Any, encoding: str = "utf-8", force_ascii: bool = True) -> str:
        """The addr-spec of an address as Django reads it. Raises `ValueError`."""
        text = force_str(address)
        theirs = getattr(django_smtp.EmailBackend, "prep_address", None)
        if theirs is not None:
            found: str = theirs(self, text, force_ascii=force_ascii)
            return found
        if not force_ascii:
            return arguments.addr_spec(text)
        spec = arguments.addr_spec(django_message.sanitize_address(text, encoding))
        if not arguments.addr_spec(text).rpartition("@")[0].isascii():
            # It would be encoded as a word of a header, and be another address (RFC 2047 section 5)
            raise ValueError(f"Invalid address {text!r}: the local part is not ASCII; the option smtputf8 sends it")
        return spec

    def _sent(self, message: Any, result: SendResult) -> None:
        super()._sent(message, result)
        message_sent.send_robust(sender=type(self), message=message, result=result, alias=self.alias)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._pool_name}>"


def _with_addresses_as_given(octets: bytes, message: Any) -> bytes:
    """U38: an older Django writes a local part that is not ASCII as an encoded word, which is another address."""
    parsed = email.message_from_bytes(octets, policy=email.policy.SMTPUTF8)
    given = {"From": [message.from_email], "To": message.to, "Cc": message.cc, "Reply-To": message.reply_to}
    for name, addresses in given.items():
        text = ", ".join(force_str(address) for address in addresses)
        if name in parsed and name not in message.extra_headers and not text.isascii():
            del parsed[name]
            parsed[name] = text
    return parsed.as_bytes()


def _own_settings() -> dict[str, Any]:
    own = getattr(settings, "SMTPCONN", {})
    if not isinstance(own, Mapping):
        raise ImproperlyConfigured("SMTPCONN must be a dictionary")
    try:
        check_own(own)
    except ValueError as error:
        raise ImproperlyConfigured(f"SMTPCONN: {error}") from error
    return dict(own)


_SETTINGS = {
    "host": "EMAIL_HOST",
    "port": "EMAIL_PORT",
    "username": "EMAIL_HOST_USER",
    "password": "EMAIL_HOST_PASSWORD",
    "use_tls": "EMAIL_USE_TLS",
    "use_ssl": "EMAIL_USE_SSL",
    "timeout": "EMAIL_TIMEOUT",
    "ssl_keyfile": "EMAIL_SSL_KEYFILE",
    "ssl_certfile": "EMAIL_SSL_CERTFILE",
}


def _from_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is None comes from the settings; of host and port also what is empty, as Django has it."""
    found = {}
    for name, value in given.items():
        unset = not value if name in ("host", "port") else value is None
        found[name] = getattr(settings, _SETTINGS[name]) if unset else value
    return found


def _drop_pools(*, setting: str, **_more: Any) -> None:
    if setting.startswith("EMAIL_") or setting in ("SMTPCONN", "MAILERS"):
        registry.drop()


setting_changed.connect(_drop_pools, dispatch_uid="smtpconn.contrib.django")
