"""Prefect tasks: library calls with a name, retries and tags; nothing else lives here."""
