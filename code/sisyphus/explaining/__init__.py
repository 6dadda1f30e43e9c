"""Why a job has its id, and what is new in a graph: read from folders, without running recipes."""
