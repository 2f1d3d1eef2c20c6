#!/bin/busybox sh
# What SQLite says of the rows' file, and how many rows there are.
exec sqlite3 /var/lib/lab/rows.db 'PRAGMA busy_timeout=20000; PRAGMA integrity_check; SELECT count(*) FROM rows;'
