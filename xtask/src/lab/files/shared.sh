# What $1 VMs `many-N` of the VMM $2 keep in the host's memory: of the base that they share, and of their own. Bytes and KiB.
base() { printf '/srv/firecracker/vm-demo/%s/images/base.ext4\n' "$1"; }
echo "inodes $(seq 1 "$1" | while read -r n; do stat -c %i "$(base "many-$n")"; done | sort -u | wc -l)"
echo "size $(stat -c %s "$(base many-1)")"
echo "cached $(fincore --bytes --noheadings --output RES "$(base many-1)")"
pgrep -f "$2.*many-" | while read -r pid; do
    awk '/^Anonymous:/ { print "own", $2 } /^Pss_File:/ { print "shared", $2 }' "/proc/$pid/smaps_rollup"
done
