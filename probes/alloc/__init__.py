"""The probe on allocation."""
