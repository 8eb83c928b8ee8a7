"""Rows from files, folders and Hugging Face datasets."""
