"""The embedded stack: Postgres, Temporal, worker and HTTP door as children of one small supervisor."""
