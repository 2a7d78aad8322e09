"""The processes: they alone read settings, choose the adapters and open every door."""
