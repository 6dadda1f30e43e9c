"""What the loader of configs needs: the event loop of async ones, the line of a config that made a job."""
