"""Backup work as people think of it: what is wanted, what became of each study, and who is at it.

The ledger holds one row per run and study; leases keep two runs from pulling the same study; planning
decides instance by instance what is missing. The ledger is what a run is resumed from, never Prefect.
"""
