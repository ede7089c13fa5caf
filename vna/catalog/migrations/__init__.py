"""The history of the database's tables, oldest first; a revision that was released is never changed."""
