"""What operators run by hand: each command reads the environment that `serve` reads.

Exit codes: 0 done, 1 the command found what it was run to find out (a failed check, nothing to
revoke), 64 the settings or arguments are unusable, 69 the database cannot be used.
"""

EXIT_FAILED = 1
EXIT_UNAVAILABLE = 69
"""EX_UNAVAILABLE of sysexits.h."""
