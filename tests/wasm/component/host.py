"""The host's side of the world `one-shot`: sockets, names and TLS for a component that has none of them."""

from __future__ import annotations

import socket
from typing import Any

import wasmtime
from wasmtime.component import Component, Linker, Record, ResourceAny, ResourceHost, ResourceType, Variant

from smtpconn import CertificateError, InvalidInputError, SmtpTimeoutError, SocketTransport, TlsConfig, TlsError
from smtpconn.transport import Transport

HOST_STREAM = "smtpconn:mailer/host-stream@0.1.0"
SUBMISSION = "smtpconn:mailer/submission@0.1.0"
_LINK = 1  # the number of the resource's type


def record(**fields: Any) -> Record:
    """A record of WIT; an underscore stands for a hyphen."""
    made = Record()
    for name, value in fields.items():
        setattr(made, name.replace("_", "-"), value)
    return made


def plain(value: Any) -> Any:
    """Records as dictionaries, all the way down."""
    if isinstance(value, Record):
        return {name.replace("-", "_"): plain(field) for name, field in vars(value).items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def _refusal(error: Exception) -> Record:
    if isinstance(error, TimeoutError):  # SmtpTimeoutError is one, too
        trouble = "timed-out"
    elif isinstance(error, socket.gaierror):
        trouble = "unresolved"
    elif isinstance(error, CertificateError):
        trouble = "untrusted"
    elif isinstance(error, (TlsError, InvalidInputError)):
        trouble = "no-tls"
    else:
        trouble = "lost"
    return record(trouble=trouble, text=str(error))


class Host:
    """An instance of a component, and the streams that it has open."""

    def __init__(self, engine: wasmtime.Engine, component: Component) -> None:
        self._links: dict[int, Transport] = {}
        self._store = wasmtime.Store(engine)
        wasi = wasmtime.WasiConfig()  # clocks and random numbers; no files, no network, no environment
        wasi.inherit_stdout()
        wasi.inherit_stderr()
        self._store.set_wasi(wasi)
        linker = Linker(engine)
        linker.add_wasip2()
        with linker.root() as root, root.add_instance(HOST_STREAM) as stream:
            stream.add_resource("link", ResourceType.host(_LINK), self._dropped)
            stream.add_func("[static]link.connect", self._connect)
            for name in ("send", "recv", "readable", "start-tls", "local-address", "close-notify", "close"):
                stream.add_func(f"[method]link.{name}", self._method(f"_{name.replace('-', '_')}"))
        self._instance = linker.instantiate(self._store, component)

    def send(
        self,
        config: dict[str, Any],
        credentials: dict[str, Any] | None,
        mail: dict[str, Any],
        function: str = "send",
    ) -> Any:
        """Call `send` (or its sister) with the fields of its records: `("ok" or "err", fields of what came of it)`."""
        account = None if credentials is None else record(**credentials)
        result = self.call(function, record(**config), account, record(**mail), interface=SUBMISSION)
        return result.tag, plain(result.payload)

    def call(self, name: str, *arguments: Any, interface: str | None = None) -> Any:
        """Call an export, of an interface or of the world itself."""
        within = None if interface is None else self._instance.get_export_index(self._store, interface)
        index = self._instance.get_export_index(self._store, name, within)
        function = None if index is None else self._instance.get_func(self._store, index)
        if function is None:
            raise LookupError(f"the component exports no {name}")
        result = function(self._store, *arguments)
        function.post_return(self._store)
        return result

    @property
    def open_links(self) -> int:
        """How many streams the guest has not given back."""
        return len(self._links)

    def _method(self, name: str) -> Any:
        method = getattr(self, name)

        def called(store: Any, link: ResourceAny, *arguments: Any) -> Any:
            return method(link.to_host(store).rep, *arguments)

        return called

    # --- the interface host-stream

    def _connect(self, store: Any, host: str, port: int, timeout: float | None) -> Any:
        try:
            sock = socket.create_connection((host, port), timeout)
        except (socket.gaierror, TimeoutError) as error:
            return _refusal(error)
        except OSError as error:
            return record(trouble="unreachable", text=f"connect to {host}:{port} failed: {error.strerror}")
        rep = max(self._links, default=0) + 1
        self._links[rep] = SocketTransport.over(sock, host=host)
        return ResourceHost.own(rep, _LINK)

    def _send(self, rep: int, octets: bytes, timeout: float | None) -> Any:
        try:
            return self._links[rep].send(octets, timeout)
        except OSError as error:
            return _refusal(error)

    def _recv(self, rep: int, limit: int, timeout: float | None) -> Any:
        try:
            return self._links[rep].recv(limit, timeout)
        except OSError as error:
            return _refusal(error)

    def _readable(self, rep: int) -> bool:
        return self._links[rep].readable()

    def _start_tls(self, rep: int, server_name: str, trust: bytes | None, timeout: float | None) -> Any:
        try:
            config = TlsConfig(trust="certifi" if trust is None else trust, server_name=server_name)
            self._links[rep] = self._links[rep].start_tls(config, timeout)
        except (TlsError, SmtpTimeoutError, InvalidInputError, OSError) as error:
            self._links[rep].close()
            return Variant("err", _refusal(error))
        tls = self._links[rep].tls
        assert tls is not None
        fields = ("version", "cipher", "server_name", "peer_certificate")
        return Variant("ok", record(**{name: getattr(tls, name) for name in fields}))

    def _local_address(self, rep: int) -> str | None:
        address: str | None = getattr(self._links[rep], "local_address", None)
        return address

    def _close_notify(self, rep: int) -> None:
        getattr(self._links[rep], "close_notify", lambda: None)()

    def _close(self, rep: int) -> None:
        self._links[rep].close()

    def _dropped(self, store: Any, rep: int) -> None:
        self._links.pop(rep).close()
