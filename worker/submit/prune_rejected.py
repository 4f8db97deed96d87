"""Effects of a rejected record on --prune: a choice of the command line, of pipeline files and of orders."""

STOP = "stop"
KEEP = "keep"
CHOICES = (STOP, KEEP)
