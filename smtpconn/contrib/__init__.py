"""Bridges from smtpconn to other libraries; each is a module of its own, and none is imported unless asked for.

What a module needs is an extra of the same name: `pip install smtpconn[prometheus]`.
"""
