"""Steps: thin Jobs around the library ``merging``. File names are part of job ids."""
