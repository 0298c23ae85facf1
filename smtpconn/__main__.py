"""`python -m smtpconn` is the command `smtpconn`."""

from __future__ import annotations

import sys

from smtpconn.cli import main

sys.exit(main())
