# Makes the stopped instance $1 what the Bash fireclaw 0.2 would have left: its record, its scripts, its units; and starts it.
id=$1
state=/var/lib/fireclaw/.vm-$id fc=/srv/firecracker/vm-demo/$id units=/etc/systemd/system
keys='INSTANCE_ID HOST_PORT VM_IP VM_TAP VM_MAC GATEWAY_TOKEN MODEL SKILLS TELEGRAM_USERS OPENCLAW_IMAGE VM_VCPU VM_MEM_MIB
DISK_SIZE API_SOCK SSH_KEY_PATH SKIP_BROWSER_INSTALL ANTHROPIC_API_KEY OPENAI_API_KEY MINIMAX_API_KEY'
cp "$state/.env" /tmp/ours.env
{
    echo FIRECLAW_STATE_FORMAT=plain-v1
    for key in $keys; do
        grep "^$key=" /tmp/ours.env || echo "$key="
    done
} >"$state/.env"
value() { sed -n "s/^$1=//p" "$state/.env"; }
tap=$(value VM_TAP) ip=$(value VM_IP) port=$(value HOST_PORT)
# Its configuration names the host's paths: there was no jail.
sed "s#\"/\(vmlinux\|initrd.img\|rootfs.ext4\|seed.img\)\"#\"$fc/images/\1\"#" "$fc/config/vm-config.json" >/tmp/vm-config.json
cp /tmp/vm-config.json "$fc/config/vm-config.json"
cat >"$fc/start-vm.sh" <<SCRIPT
#!/usr/bin/env bash
set -euo pipefail
rm -f "$fc/firecracker.socket"
ip link show "$tap" >/dev/null 2>&1 || ip tuntap add dev "$tap" mode tap
ip link set "$tap" master fc-br0
ip link set "$tap" up
exec firecracker --api-sock "$fc/firecracker.socket" --config-file "$fc/config/vm-config.json"
SCRIPT
cat >"$fc/stop-vm.sh" <<SCRIPT
#!/usr/bin/env bash
curl -s --unix-socket "$fc/firecracker.socket" -X PUT http://localhost/actions -d '{"action_type":"SendCtrlAltDel"}' || true
for _ in \$(seq 1 60); do kill -0 "\$MAINPID" 2>/dev/null || break; sleep 1; done
ip link delete "$tap" 2>/dev/null || true
SCRIPT
chmod 755 "$fc/start-vm.sh" "$fc/stop-vm.sh"
cat >"$units/firecracker-vmdemo-$id.service" <<UNIT
[Unit]
Description=Firecracker VM for $id
[Service]
Type=simple
ExecStart=$fc/start-vm.sh
ExecStop=$fc/stop-vm.sh
Restart=on-failure
[Install]
WantedBy=multi-user.target
UNIT
cat >"$units/vmdemo-proxy-$id.service" <<UNIT
[Unit]
Description=Proxy for $id
[Service]
ExecStart=/usr/bin/socat TCP-LISTEN:$port,bind=127.0.0.1,fork,reuseaddr TCP:$ip:18789
Restart=always
[Install]
WantedBy=multi-user.target
UNIT
systemctl daemon-reload
systemctl enable --quiet --now "firecracker-vmdemo-$id.service" "vmdemo-proxy-$id.service"
