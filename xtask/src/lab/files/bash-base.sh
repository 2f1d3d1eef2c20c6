# Makes of the stock root filesystem $1 another, $2, that the Bash fireclaw can provision here: its seed says nothing of package
# sources or registries, so the base keeps its own sources and finds the registry $3 at its own loopback, which Docker trusts.
cp --sparse=always "$1" "$2"
mount -o loop "$2" /mnt
units=/mnt/etc/systemd/system
# What mmdebstrap was told, no cloud image says: packages come with those that they recommend, Docker with AppArmor's parser.
rm -f /mnt/etc/apt/apt.conf.d/99mmdebstrap
echo 'apt: {preserve_sources_list: true}' >/mnt/etc/cloud/cloud.cfg.d/99-sources.cfg
cat >"$units/registry.socket" <<UNIT
[Socket]
ListenStream=127.0.0.1:5000
[Install]
WantedBy=sockets.target
UNIT
cat >"$units/registry.service" <<UNIT
[Service]
ExecStart=/lib/systemd/systemd-socket-proxyd $3
UNIT
mkdir -p "$units/sockets.target.wants"
ln -s ../registry.socket "$units/sockets.target.wants/"
umount /mnt
