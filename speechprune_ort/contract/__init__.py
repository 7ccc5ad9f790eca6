"""What a bundle holds: all that export and the runtime know of each other."""
