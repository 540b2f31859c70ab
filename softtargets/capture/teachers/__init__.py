"""Teachers: each is a file, and has what the protocol `Teacher` asks."""
