# Installs or removes our npm package with the Node of the image that carries one. Needs no registry: the package has no
# dependencies.
verb=$1
mount=/run/node-of-the-image
if [[ $verb = install ]]; then
    mkdir -p "$mount" /root/npm
    mount -o loop,ro /srv/firecracker/base/images/default/rootfs.ext4 "$mount"
    tar -xzf /root/npm.tgz -C /root/npm
fi
node=$mount/opt/openclaw/node/bin
npm() { PATH=$node:$PATH "$node/node" /root/npm/package/bin/npm-cli.js "$@"; }
if [[ $verb = install ]]; then
    npm install --global --offline --prefix /usr/local /root/fireclaw.tgz
else
    npm uninstall --global --prefix /usr/local fireclaw
    umount "$mount"
    [[ ! -e /usr/local/bin/vm-ctl ]]
fi
