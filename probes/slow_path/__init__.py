"""The probe on contended waits."""
