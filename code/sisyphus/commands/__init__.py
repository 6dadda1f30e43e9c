"""The commands that explain, look after and clean what the manager made; one file each."""
