"""A store that answers over HTTP, and goes on answering while its current version changes."""
