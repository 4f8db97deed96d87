"""Reading a source into a corpus: records become documents and contents, and what is new is planned."""
