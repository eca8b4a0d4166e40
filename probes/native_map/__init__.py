"""The probe on native maps, at the places that profiles declare (PROFILE.md)."""
