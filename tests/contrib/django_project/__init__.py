"""A small Django project, of whatever line is installed: what a view does with mail."""
