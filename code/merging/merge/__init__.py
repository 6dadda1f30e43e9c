"""One merge: what is merged, what is kept, piece by piece, from folders or memory to a folder or memory."""
