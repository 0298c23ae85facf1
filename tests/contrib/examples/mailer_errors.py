"""What django-mailer does with an error: MAILER_ERROR_HANDLER = "mailer_errors.keep_out_what_is_in_doubt"."""

from __future__ import annotations

from typing import Any

from mailer.engine import handle_delivery_exception
from mailer.models import RESULT_FAILURE, MessageLog

from smtpconn.contrib.compat import SMTPDeliveryUnknown


def keep_out_what_is_in_doubt(connection: Any, message: Any, error: Exception) -> Any:
    """A message that may have arrived leaves the queue, and is in the log; everything else as by default."""
    if isinstance(error, SMTPDeliveryUnknown):
        MessageLog.objects.log(message, RESULT_FAILURE, log_message=str(error))
        message.delete()
        return connection, "deferred"
    return handle_delivery_exception(connection, message, error)
