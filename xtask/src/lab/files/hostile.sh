#!/bin/busybox sh
# What a guest gone wrong does, for twenty seconds at the most: $1 is `serial`, `forks`, `disk` or `spin`.
case $1 in
serial) timeout 20 sh -c 'while :; do echo "............................................................" >/dev/ttyS0; done' ;;
spin) timeout 20 sh -c 'for _ in 1 2 3 4; do (while :; do :; done) & done; wait' ;;
forks) timeout 20 sh -c 'bomb() { bomb & bomb; }; bomb' ;;
disk) timeout 20 dd if=/dev/zero of=/var/lib/lab/filler bs=1M oflag=direct ;;
esac
rm -f /var/lib/lab/filler
