"""Orders of other programs: `docmill.enqueue` messages, stored as they come and carried out under a lease."""
