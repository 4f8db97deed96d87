"""Orders of other programs: `docmill.enqueue` messages, stored on arrival and carried out under a lease."""
