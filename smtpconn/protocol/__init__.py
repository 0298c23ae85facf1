"""The sans-I/O core: what SMTP and LMTP say, and what it means for the caller's mail.

Below this package there is no socket, clock, thread or log. It runs unchanged wherever Python runs.
"""
