"""Model files and the Hub: read lazily, written piece by piece, published whole or not at all."""
