"""To see a store: what its targets are like, as one HTML page and in the terminal."""
