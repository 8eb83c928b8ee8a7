"""One file for each modifier."""
