"""The command `backupdr`: it asks and tells; the work is done by the rooms below it."""
