"""One view, which sends a mail as applications do."""

from __future__ import annotations

from typing import Any

from django.core.mail import send_mail
from django.http import HttpResponse
from django.urls import path


def signup(request: Any) -> HttpResponse:
    sent = send_mail("Welcome", "Hello.", "app@example.com", [request.GET["to"]])
    return HttpResponse(str(sent))


urlpatterns = [path("signup", signup)]
