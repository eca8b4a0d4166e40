"""The probe ``lifecycle``: its spec and its program."""
