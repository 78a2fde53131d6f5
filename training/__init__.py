"""Makes the pocket models: a generator of scenes with captions, and one command that trains everything on them."""
