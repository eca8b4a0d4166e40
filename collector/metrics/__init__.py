"""What the ``metrics`` sink is made of; ``docs/metrics/README.md`` says what each metric means."""
