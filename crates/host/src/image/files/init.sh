#!/bin/busybox sh
# The whole of the initial ramdisk: loads the modules that lie beside it, mounts the root disk, hands over.
bb=/bin/busybox

$bb mount -t devtmpfs -o nosuid,mode=0755 dev /dev
$bb mount -t proc -o nosuid,noexec,nodev proc /proc
$bb mount -t sysfs -o nosuid,noexec,nodev sys /sys

fail() {
    echo "initrd: $1" >/dev/console
    $bb sleep 1
    $bb reboot -f
}

# In the order in which they need each other. One that does not load (no such CPU feature) is not missed, or its
# absence shows below.
while read -r module; do
    $bb insmod "/modules/$module" 2>/dev/null
done </modules/order

root=/dev/vda
read -r line </proc/cmdline
for word in $line; do
    case $word in
    root=/dev/*) root=${word#root=} ;;
    esac
done

tries=0
while [ ! -b "$root" ]; do
    tries=$((tries + 1))
    [ "$tries" -gt 500 ] && fail "there is no $root"
    $bb usleep 20000
done

# Inode tables of a grown filesystem are left as they are: on a sparse disk they are zeros that take no room.
options=noatime,noinit_itable
$bb mount -t ext4 -o "ro,$options" "$root" /root || fail "cannot mount $root"
# The mount has replayed the journal. Only where the kernel once found an error is there something to mend.
errors=unknown
read -r errors <"/sys/fs/ext4/${root#/dev/}/errors_count"
for folder in dev proc sys; do
    $bb mount --move "/$folder" "/root/$folder"
done
if [ "$errors" != 0 ]; then
    $bb chroot /root /sbin/e2fsck -p "$root" >/root/dev/kmsg 2>&1
    case $? in
    0 | 1) ;;
    # Mended below a mounted filesystem: what is mounted is not what is there any more.
    2 | 3) $bb reboot -f ;;
    *) echo "initrd: e2fsck could not mend $root" >/root/dev/kmsg ;;
    esac
fi
$bb mount -o "remount,rw,$options" "$root" /root
exec $bb switch_root /root /sbin/init
