"""Retrieval by servers other than our PostgreSQL."""
