"""What a person reads and is asked on a terminal: log lines, overview, live view, prompts."""
