# How long from the order to the VMM's API, for instance $1: by fireclaw, and by hand with the same configuration, without a
# jail. Milliseconds, one line a way; both are looked for every five of them, which leaves both processors to who is measured.
id=$1
fc=/srv/firecracker/vm-demo/$id
by_hand=/run/by-hand.socket
now() { echo "${EPOCHREALTIME/[.,]/}"; }
# Nobody ever writes to it, and it never ends.
exec 9<> <(:)
until_socket() { while ! [[ -S $1 ]]; do read -rt 0.005 -u 9 || true; done; }
sed "s#\"/\(vmlinux\|initrd.img\|rootfs.ext4\|base.ext4\|state.ext4\|seed.img\)\"#\"$fc/images/\1\"#" "$fc/config/vm-config.json" >/run/by-hand.json
tap=$(sed -n 's/^VM_TAP=//p' "/var/lib/fireclaw/.vm-$id/.env")
fireclaw stop "$id" --now --quiet
for way in fireclaw hand fireclaw hand fireclaw hand fireclaw hand fireclaw hand; do
    sleep 1
    begun=$(now)
    if [[ $way = fireclaw ]]; then
        fireclaw start "$id" --quiet >/dev/null 2>&1 &
        until_socket "$fc/firecracker.socket"
    else
        ip tuntap add dev "$tap" mode tap
        ip link set "$tap" master fc-br0 up
        firecracker --api-sock "$by_hand" --config-file /run/by-hand.json </dev/null >/dev/null 2>&1 &
        until_socket "$by_hand"
    fi
    echo "$way $((($(now) - begun) / 1000))"
    kill %%
    # Its status is that of the signal.
    wait %% || true
    if [[ $way = fireclaw ]]; then
        fireclaw stop "$id" --now --quiet
    else
        rm -f "$by_hand"
        ip link delete "$tap"
    fi
done
