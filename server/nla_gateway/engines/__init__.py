"""SGLang over HTTP, and who gets its places."""
