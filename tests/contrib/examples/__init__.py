"""What the documentation shows of applications; the tests run it."""
