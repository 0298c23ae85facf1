"""A lease: the verbs of `SmtpConnection`, good from `with pool.connection() as lease:` to the end of that block.

Knows what each verb is called and takes; how the connection is had and given back is `holding`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

from smtpconn.chain import Pulled, check_mail, check_mails
from smtpconn.connection import Message, Recipients
from smtpconn.deadline import Budget, Timeouts
from smtpconn.opening import CredentialsSource, concealed, credentials_of
from smtpconn.outcomes import MailOutcome, MailOutcomes
from smtpconn.pooling.holding import Holding, Limit
from smtpconn.protocol.address import ReversePath, check_ehlo_domain
from smtpconn.protocol.extensions import ServerCapabilities
from smtpconn.protocol.flow import Pipelining
from smtpconn.protocol.mail import Mail
from smtpconn.protocol.params import MailParams
from smtpconn.protocol.reply import Reply
from smtpconn.protocol.result import SendResult
from smtpconn.protocol.sasl import (
    LoginAuth,
    OAuthBearerAuth,
    PlainAuth,
    ScramAuth,
    Secret,
    SecretSource,
    XOAuth2Auth,
)
from smtpconn.protocol.session import SessionState
from smtpconn.tls import TlsInfo


class Lease(Holding):
    """One connection of a pool for as long as a `with` block lasts. `timeout` of its verbs defaults to the pool's.

    Several threads may use it; their verbs take turns. `close()` and `quit()` end the connection, not the lease.
    """

    __slots__ = ()

    # ---- snapshots

    @property
    def capabilities(self) -> ServerCapabilities:
        """What the server offered in its last EHLO."""
        found: ServerCapabilities = self._look("capabilities")
        return found

    @property
    def is_shutting_down(self) -> bool:
        """True once the server has said or shown that it closes the connection."""
        return bool(self._look("is_shutting_down"))

    @property
    def is_authenticated(self) -> bool:
        """True after a successful AUTH."""
        return bool(self._look("is_authenticated"))

    @property
    def state(self) -> SessionState:
        """Where the session is."""
        found: SessionState = self._look("state")
        return found

    @property
    def tls(self) -> TlsInfo | None:
        """What is known of the TLS layer, or None."""
        found: TlsInfo | None = self._look("tls")
        return found

    @property
    def is_used(self) -> bool:
        """True if its connection has carried mails before; it may have died since then unseen (D7)."""
        return bool(self._look("mails"))

    # ---- mails

    def send(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        *,
        timeout: Limit = None,
        params: MailParams | None = None,
        newlines: str = "strict",
        size: int | None = None,
    ) -> SendResult:
        """`SmtpConnection.send`: one mail by DATA."""
        return self._mail("send", sender, recipients, message, timeout, params, newlines, size)

    def send_bdat(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        *,
        timeout: Limit = None,
        params: MailParams | None = None,
        newlines: str = "strict",
        size: int | None = None,
    ) -> SendResult:
        """`SmtpConnection.send_bdat`: one mail by BDAT (RFC 3030)."""
        return self._mail("send_bdat", sender, recipients, message, timeout, params, newlines, size)

    def send_lmtp(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        *,
        timeout: Limit = None,
        params: MailParams | None = None,
        newlines: str = "strict",
        size: int | None = None,
    ) -> SendResult:
        """`SmtpConnection.send_lmtp`: as `send`, on an LMTP connection only."""
        return self._mail("send_lmtp", sender, recipients, message, timeout, params, newlines, size)

    def send_lmtp_bdat(
        self,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        *,
        timeout: Limit = None,
        params: MailParams | None = None,
        newlines: str = "strict",
        size: int | None = None,
    ) -> SendResult:
        """`SmtpConnection.send_lmtp_bdat`: as `send_bdat`, on an LMTP connection only."""
        return self._mail("send_lmtp_bdat", sender, recipients, message, timeout, params, newlines, size)

    def _mail(
        self,
        verb: str,
        sender: str | ReversePath,
        recipients: Recipients,
        message: Message,
        timeout: Limit,
        params: MailParams | None,
        newlines: str,
        size: int | None,
    ) -> SendResult:
        result: SendResult = self._verb(
            verb, sender, recipients, message, timeout=timeout, params=params, newlines=newlines, size=size
        )
        return result

    def send_message(
        self,
        email_message: Any,
        *,
        timeout: Limit = None,
        sender: str | ReversePath | None = None,
        recipients: Recipients | None = None,
        params: MailParams | None = None,
    ) -> SendResult:
        """`SmtpConnection.send_message`: an `EmailMessage`."""
        result: SendResult = self._verb(
            "send_message", email_message, timeout=timeout, sender=sender, recipients=recipients, params=params
        )
        return result

    def send_many(self, mails: Iterable[Mail], *, timeout: Limit = None) -> MailOutcomes:
        """`SmtpConnection.send_many`: one mail after the other, over this connection.

        At `PREFETCH` and `BURST` the connection is the batch's from its first `next()` to its end: exhaust it, or close
        it. A lease that ends before closes its connection; the mails that are left are then refused.
        """
        limit = self._timeout if timeout is None else timeout
        Budget.of(limit)  # what is wrong with an argument is said now, not with the first mail
        check_mails(mails)
        return MailOutcomes(self._outcomes(mails, limit))

    def _outcomes(self, mails: Iterable[Mail], limit: float | Timeouts) -> Generator[MailOutcome, None, None]:
        if self._state == "held" and self._supply.level >= Pipelining.PREFETCH:
            yield from self._run_ahead(Pulled(mails), limit)
            return
        for index, mail in enumerate(mails):
            check_mail(mail)
            yield MailOutcome.of(index, mail, lambda mail: self._verb("_send", mail, timeout=limit))

    def _run_ahead(self, pulled: Pulled, limit: float | Timeouts) -> Generator[MailOutcome, None, None]:
        """LV8: the connection is this batch's to its end. If the lease ends before, nobody can say what is open there.

        So the batch counts as one verb under way: such a connection is closed.
        """
        connection = self._begin_verb()
        try:
            chain = connection.chain(limit, self._supply.clock)
            slot = self._claim.slot if self._claim is not None else None
            if slot is not None:
                chain.most_mails = min(slot.most_mails, slot.endpoint.most(self._supply.clock()))
            try:
                self._verb("_begin_chain", chain, timeout=limit)
                while (item := pulled.take()) is not None:
                    index, mail = item
                    yield MailOutcome.of(
                        index, mail, lambda mail: self._verb("_send_in_chain", mail, chain, pulled.peek, timeout=limit)
                    )
            finally:
                connection._end_chain(chain)
        finally:
            self._leave_verb()

    # ---- the session. A connection that changed its identity serves nobody else afterwards (I34)

    def auth(self, credentials: CredentialsSource, *, timeout: Limit = None) -> None:
        """`SmtpConnection.auth`; the connection is closed when the lease ends."""
        hidden = concealed(credentials)
        del credentials  # SEC2
        self._authenticate(credentials_of(hidden), timeout)

    def auth_plain(
        self, user: str, password: SecretSource | Secret, *, timeout: Limit = None, authzid: str | None = None
    ) -> None:
        """`SmtpConnection.auth_plain`; the connection is closed when the lease ends."""
        secret = Secret(password, "password")
        del password
        self._authenticate(PlainAuth(user, secret, authzid=authzid), timeout)

    def auth_login(self, user: str, password: SecretSource | Secret, *, timeout: Limit = None) -> None:
        """`SmtpConnection.auth_login`; the connection is closed when the lease ends."""
        secret = Secret(password, "password")
        del password
        self._authenticate(LoginAuth(user, secret), timeout)

    def auth_scram(self, user: str, password: SecretSource | Secret, *, timeout: Limit = None) -> None:
        """`SmtpConnection.auth_scram`; the connection is closed when the lease ends."""
        secret = Secret(password, "password")
        del password
        self._authenticate(ScramAuth(user, secret), timeout)

    def auth_xoauth2(self, user: str, token: SecretSource | Secret, *, timeout: Limit = None) -> None:
        """`SmtpConnection.auth_xoauth2`; the connection is closed when the lease ends."""
        secret = Secret(token, "token")
        del token
        self._authenticate(XOAuth2Auth(user, secret), timeout)

    def auth_oauthbearer(
        self, token: SecretSource | Secret, *, timeout: Limit = None, user: str | None = None
    ) -> None:
        """`SmtpConnection.auth_oauthbearer`; the connection is closed when the lease ends."""
        secret = Secret(token, "token")
        del token
        self._authenticate(OAuthBearerAuth(secret, user=user), timeout)

    def set_ehlo_domain(self, domain: str) -> None:
        """`SmtpConnection.set_ehlo_domain`; the connection is closed when the lease ends."""
        checked = check_ehlo_domain(domain)
        self._keep_apart()
        self._look("set_ehlo_domain")(checked)

    def _authenticate(self, credentials: CredentialsSource | None, timeout: Limit) -> None:
        """What is wrong with an argument is found before the connection is set apart."""
        Budget.of(self._timeout if timeout is None else timeout)
        if credentials is None:
            raise TypeError("credentials are needed")
        self._keep_apart()
        self._verb("auth", credentials, timeout=timeout)

    def _keep_apart(self) -> None:
        claim = self._claim
        if claim is not None and claim.slot is not None and self._state == "held":
            claim.slot.generation = -1

    # ---- other commands

    def reset(self, *, timeout: Limit = None) -> None:
        """RSET."""
        self._verb("reset", timeout=timeout)

    def noop(self, *, timeout: Limit = None) -> None:
        """NOOP; a 4yz or 5yz reply is raised."""
        self._verb("noop", timeout=timeout)

    def vrfy(self, address: str, *, timeout: Limit = None) -> Reply:
        """VRFY: the reply, whatever it is."""
        reply: Reply = self._verb("vrfy", address, timeout=timeout)
        return reply

    def expn(self, name: str, *, timeout: Limit = None) -> Reply:
        """EXPN: the reply, whatever it is."""
        reply: Reply = self._verb("expn", name, timeout=timeout)
        return reply

    def help(self, topic: str | None = None, *, timeout: Limit = None) -> Reply:
        """HELP: the reply, whatever it is."""
        reply: Reply = self._verb("help", topic, timeout=timeout)
        return reply

    def rehlo(self, *, timeout: Limit = None) -> None:
        """EHLO or LHLO again."""
        self._verb("rehlo", timeout=timeout)

    def converse(self, talk: Callable[[Any, Budget], Any], *, timeout: Limit = None) -> Any:
        """For adapters with verbs of their own: `talk(connection, budget)`, in one turn."""
        return self._verb("converse", talk, timeout=timeout)

    def quit(self, *, timeout: Limit = None) -> bool:
        """QUIT, and close the connection; the lease ends with its block."""
        return bool(self._verb("quit", timeout=timeout))

    def close(self) -> None:
        """Close the connection without QUIT; the lease ends with its block."""
        self._look("close")()
