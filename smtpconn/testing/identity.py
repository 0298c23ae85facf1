"""Who a server is under TLS: its certificate and its `ssl.SSLContext`, made when first needed.

It knows the options that speak of TLS. It refuses to know connections; `ssl` and `cryptography` are imported when a
server has TLS at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .options import ServerOptions

if TYPE_CHECKING:
    import ssl

    from .ca import Issued

__all__ = ["Identity"]


class Identity:
    """The certificate of one server; follows `ServerOptions.certificate` when that changes."""

    def __init__(self, options: ServerOptions) -> None:
        self._options = options
        self._issued: Issued | None = None
        self._context: ssl.SSLContext | None = None

    def context(self) -> ssl.SSLContext:
        """Return the context for the next connection; sets `ServerOptions.ca` if there was none."""
        import ssl

        from .ca import TestAuthority

        options = self._options
        if isinstance(options.certificate, ssl.SSLContext):
            return options.certificate
        if options.ca is None:
            options.ca = TestAuthority()
        wanted = options.certificate or self._issued
        if wanted is None:
            wanted = options.ca.issue(list(dict.fromkeys((options.host, "127.0.0.1", "::1", "localhost"))))
        if self._context is None or wanted is not self._issued:
            self._issued = wanted
            self._context = wanted.server_context()
            self._context.sni_callback = _remember_server_name
            if options.client_certificates is not None:
                required = options.client_certificates == "required"
                self._context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
                self._context.load_verify_locations(cadata=options.ca.pem.decode())
        return self._context

    def certificate(self) -> bytes | None:
        """Return the certificate in use, DER; None before the first, and for a context of the test's own."""
        if self._issued is None or not (self._options.certificate is None or self._options.certificate is self._issued):
            return None
        return self._issued.der


def _remember_server_name(connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
    vars(connection)["requested_name"] = name
