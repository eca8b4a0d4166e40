"""The probe ``wakes``: its spec and its program."""
