"""Files of vectors as a stream of rows."""
