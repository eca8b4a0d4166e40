"""What Parkscope is shown on: programs that park on purpose. Nothing imports this."""
