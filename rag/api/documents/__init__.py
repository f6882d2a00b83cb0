"""Collections, documents and index runs over HTTP."""
