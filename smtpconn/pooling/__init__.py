"""The rooms behind `ConnectionPool`: who owns which slot, who waits, what is opened, checked, counted and told.

`smtpconn.slots` and `smtpconn.pool` are the doors; nothing in here is imported by the application.
"""
