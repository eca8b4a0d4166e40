"""Triggers: conditions over what is observed, and what is done when they hold."""
