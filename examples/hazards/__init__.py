"""Programs, each with one hazard of a map that others write to while it is walked."""
