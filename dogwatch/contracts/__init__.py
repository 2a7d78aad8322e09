"""Every word that crosses a process: frozen pydantic models that know no framework."""
