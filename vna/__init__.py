"""Everything that knows DICOM, files and databases; usable as a plain library, never imports Prefect."""
