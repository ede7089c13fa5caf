"""Prefect flows, one file each; a flow reads like its paragraph in the manual."""
