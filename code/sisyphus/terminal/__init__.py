"""What a person sees and is asked: log lines, overview, live view, prompts, the dialogue of the manager."""
