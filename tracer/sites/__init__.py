"""Where probes may sit in a target's code (x86-64), and what they cost there."""
