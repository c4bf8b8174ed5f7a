"""Notebook: being written."""
