#!/bin/busybox sh
# The whole of the initial ramdisk: loads the modules that lie beside it, mounts or assembles the root, hands over.
#
#   root=/dev/X                            the root filesystem is on X, which is written
#   root=/dev/X fireclaw.state=/dev/Y      X is only read; what is written goes to Y
bb=/bin/busybox

$bb mount -t devtmpfs -o nosuid,mode=0755 dev /dev
$bb mount -t proc -o nosuid,noexec,nodev proc /proc
$bb mount -t sysfs -o nosuid,noexec,nodev sys /sys

fail() {
    echo "initrd: $1" >/dev/console
    $bb sleep 1
    $bb reboot -f
}

# Waits for a disk that is being found.
await() {
    tries=0
    while [ ! -b "$1" ]; do
        tries=$((tries + 1))
        [ "$tries" -gt 500 ] && fail "there is no $1"
        $bb usleep 20000
    done
}

# The number of errors that the kernel ever found in the filesystem of a disk. A mount has replayed the journal; only
# where this is not 0 is there something to mend.
errors_of() {
    errors=unknown
    read -r errors <"/sys/fs/ext4/${1#/dev/}/errors_count"
}

# In the order in which they need each other. One that does not load (no such CPU feature) is not missed, or its
# absence shows below.
while read -r module; do
    $bb insmod "/modules/$module" 2>/dev/null
done </modules/order

root=/dev/vda
state=
read -r line </proc/cmdline
for word in $line; do
    case $word in
    root=/dev/*) root=${word#root=} ;;
    fireclaw.state=/dev/*) state=${word#fireclaw.state=} ;;
    esac
done

# Inode tables of a new or grown filesystem are left as they are: on a sparse disk they are zeros that take no room.
options=noatime,noinit_itable

# One disk for everything.
whole() {
    $bb mount -t ext4 -o "ro,$options" "$root" /root || fail "cannot mount $root"
    errors_of "$root"
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
}

# What e2fsck made of the state disk; 1 is mended.
check() {
    $bb chroot /base /sbin/e2fsck -p "$@" "$state" >/dev/kmsg 2>&1
    checked=$?
}

# Mends the state disk, which is not mounted, with the base's own program. That one does not look for the copy of a lost first
# superblock when nobody is there to ask; with blocks of 4 KiB, which the disk is made with, it lies in the second group.
mend() {
    $bb mount --bind /dev /base/dev
    $bb mount --bind /proc /base/proc
    check
    [ $checked != 8 ] || check -b 32768 -B 4096
    [ $checked -le 1 ] || echo "initrd: e2fsck could not mend $state" >/dev/kmsg
    $bb umount /base/proc /base/dev
}

# Folders that are no layers: Docker makes layers of its own in them, and homes are written to all the time.
plain="home var/lib/docker var/lib/containerd"

# A base that many VMs read, and over it a disk of this VM's own.
layered() {
    await "$state"
    $bb mkdir /base /state
    # Its journal is empty, and there is nobody who may replay it.
    $bb mount -t ext4 -o ro,noload,noatime "$root" /base || fail "cannot mount $root"
    errors=unknown
    $bb mount -t ext4 -o "ro,$options" "$state" /state && errors_of "$state"
    if [ "$errors" != 0 ]; then
        $bb umount /state
        mend
        $bb mount -t ext4 -o "ro,$options" "$state" /state || fail "cannot mount $state"
    fi
    $bb mount -o "remount,rw,$options" "$state" /state || fail "cannot write to $state"
    $bb mkdir -p /state/upper /state/work
    # A folder of the base can be renamed, and inode numbers are those of one filesystem, as programs expect it.
    layers=lowerdir=/base,upperdir=/state/upper,workdir=/state/work
    $bb mount -t overlay -o "noatime,$layers,redirect_dir=on,xino=on" root /root ||
        fail "cannot lay $state over $root"
    for folder in $plain; do
        own=/state/plain/$folder
        if [ ! -d "$own" ]; then
            # Whole or not at all: after a power cut it is begun again.
            $bb rm -rf "$own.new"
            $bb mkdir -p "$own.new"
            [ ! -d "/base/$folder" ] || $bb cp -a "/base/$folder/." "$own.new/" || fail "cannot fill $state"
            $bb sync
            $bb mv "$own.new" "$own"
        fi
        $bb mkdir -p "/root/$folder"
        $bb mount --bind "$own" "/root/$folder" || fail "cannot mount /$folder"
    done
    # The mounts above hold what they need of these two.
    $bb umount /state
    $bb umount /base
    for folder in dev proc sys; do
        $bb mount --move "/$folder" "/root/$folder"
    done
}

await "$root"
if [ -n "$state" ]; then layered; else whole; fi
exec $bb switch_root /root /sbin/init
