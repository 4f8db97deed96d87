"""The web page of a store: `docmill web`."""
