"""Prefect around the flows: its environment, its server, the deployments, and the site file it publishes."""
