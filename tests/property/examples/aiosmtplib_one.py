"""One mail by aiosmtplib, as people write it; the documentation shows it."""

from __future__ import annotations

import ssl
from email.message import EmailMessage

# --
import aiosmtplib


async def send(
    message: EmailMessage, host: str, port: int, user: str, password: str, private_ca: ssl.SSLContext
) -> tuple[str, list[str]]:
    refused, text = await aiosmtplib.send(
        message,
        hostname=host,
        port=port,
        start_tls=True,
        username=user,
        password=password,
        tls_context=private_ca,
        timeout=10,
    )
    return text, list(refused)
