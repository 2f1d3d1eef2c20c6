#!/bin/busybox sh
# Writes a row a transaction, each on the disk before the next begins, for as long as the guest lives.
db=/var/lib/lab/rows.db
mkdir -p /var/lib/lab
sqlite3 "$db" 'PRAGMA journal_mode=WAL; CREATE TABLE IF NOT EXISTS rows (n INTEGER PRIMARY KEY, filler BLOB);'
while :; do
    sqlite3 "$db" 'PRAGMA synchronous=FULL; INSERT INTO rows (filler) VALUES (randomblob(2000));' && sleep 0.5
done
