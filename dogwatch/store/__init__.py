"""Postgres: tables, and every query of dogwatch as a method with a name."""
