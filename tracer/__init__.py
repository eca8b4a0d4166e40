"""The privileged edges and the user's face: backends, memory reader, commands."""
