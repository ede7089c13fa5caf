"""The standalone DICOM server: receives into the spool, with nothing but a disk; no database, no Prefect."""
