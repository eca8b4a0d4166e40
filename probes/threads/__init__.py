"""The probe ``threads``: its spec and its program."""
