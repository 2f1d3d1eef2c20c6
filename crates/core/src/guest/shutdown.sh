#!/bin/sh
# Written by fireclaw. Firecracker gives its guest no way to switch the machine off, and a guest that halts keeps its
# VMM for ever. It ends with a reset, which on a machine of Firecracker's (`reboot=k`) is what is made of a power-off.
case $1 in
poweroff | halt) ;;
*) exit 0 ;;
esac
read -r line </proc/cmdline
case " $line " in
*" reboot=k "*) echo b >/proc/sysrq-trigger ;;
esac
