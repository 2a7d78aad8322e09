"""Migrations of the database: expand first, contract later, each with a way back."""
