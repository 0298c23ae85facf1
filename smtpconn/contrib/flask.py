"""`EmailBackend` for Flask-Mailman: `MAIL_BACKEND = "smtpconn.contrib.flask.EmailBackend"` (users 9).

Needs `pip install smtpconn[flask]`. Knows where Flask-Mailman keeps its configuration; the rest is shared with Django's
backend (`backends`). It imports no framework when it is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from smtpconn.contrib import arguments
from smtpconn.contrib.backends import Outgoing, PooledBackend, close_pools
from smtpconn.contrib.configuration import Configuration, default_port
from smtpconn.protocol.extensions import NO_CAPABILITIES
from smtpconn.protocol.params import MailParams

__all__ = ["EmailBackend", "close_pools"]


class EmailBackend(PooledBackend):
    """Flask-Mailman's messages over a pool of the process.

    What is None comes from `MAIL_SERVER`, `MAIL_PORT` and so on, as the extension has read them; the further options
    from the dictionary `MAIL_SMTPCONN`. Raises `ValueError` or TypeError for what cannot be; opens nothing.
    """

    def __init__(
        self,
        mailman: Any = None,
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
        **own: Any,
    ) -> None:
        from flask import current_app

        if mailman is None:
            if "mailman" not in current_app.extensions:
                raise RuntimeError("this application has no Flask-Mailman: call Mail(app)")
            mailman = current_app.extensions["mailman"]
        self.mailman = mailman
        self.fail_silently = fail_silently
        self.host, self.port = host or mailman.server, port or mailman.port
        self.username, self.password = _or(username, mailman.username), _or(password, mailman.password)
        self.use_tls, self.use_ssl = bool(_or(use_tls, mailman.use_tls)), bool(_or(use_ssl, mailman.use_ssl))
        self.timeout = _or(timeout, mailman.timeout)
        self.ssl_keyfile = _or(ssl_keyfile, mailman.ssl_keyfile)
        self.ssl_certfile = _or(ssl_certfile, mailman.ssl_certfile)
        if self.use_tls and self.use_ssl:
            raise ValueError("MAIL_USE_TLS (STARTTLS) and MAIL_USE_SSL exclude each other: set one of them")
        if self.port is None:
            self.port = default_port(use_tls=self.use_tls, use_ssl=self.use_ssl)
        options = current_app.config.get("MAIL_SMTPCONN") or {}
        if not isinstance(options, Mapping):
            raise TypeError("MAIL_SMTPCONN must be a dictionary")
        configuration = Configuration(self._account(), {**options, **own}, _name_of_this_machine)
        self._set_up(configuration, configuration.name)

    def _outgoing(self, message: Any) -> Outgoing:
        from flask_mailman.message import sanitize_address

        international = self._configuration.smtputf8
        encoding = getattr(message, "encoding", None) or self.mailman.default_charset

        def spec(address: str) -> str:
            found = arguments.addr_spec(str(address))
            if not found.rpartition("@")[0].isascii():
                if international:
                    return found
                # It would be encoded as a word of a header, and be another address (RFC 2047 section 5)
                raise ValueError(f"address {found!r:.80}: the local part is not ASCII; the option smtputf8 sends it")
            return arguments.addr_spec(sanitize_address(address, encoding))

        sender, recipients = spec(message.from_email), [spec(address) for address in message.recipients()]
        built = message.message()
        octets = built.as_bytes(linesep="\r\n")
        return Outgoing(sender, recipients, octets, str(built.get("Message-ID", "-")))

    def _params(self, outgoing: Outgoing) -> MailParams:
        """`MAIL_SEND_OPTIONS`, the options of smtplib's `sendmail`."""
        return arguments.mail_options(self.mailman.mail_options or (), NO_CAPABILITIES).params

    def __enter__(self) -> EmailBackend:
        try:
            self.open()
        except Exception:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._pool_name}>"


def _or(given: Any, configured: Any) -> Any:
    return configured if given is None else given


def _name_of_this_machine() -> str:
    from flask_mailman.utils import DNS_NAME

    name: str = DNS_NAME.get_fqdn()
    return name
