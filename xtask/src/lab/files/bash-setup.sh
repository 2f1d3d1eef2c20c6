# Runs the setup of the Bash fireclaw in /opt/bash-fireclaw: instance $1, base files in $2, container image $3. Says after how many
# milliseconds its VM was started and after how many it was let in by SSH.
id=$1 base=$2 image=$3
begun=${EPOCHREALTIME/./}
/opt/bash-fireclaw/bin/fireclaw setup --instance "$id" --model anthropic/claude-opus-4-6 --anthropic-api-key sk-ant-lab \
    --openclaw-image "$image" --skip-browser-install --vm-vcpu 1 --vm-mem-mib 1024 --disk-size 8G \
    --base-kernel "$base/vmlinux" --base-initrd "$base/initrd.img" --base-rootfs "$base/rootfs.ext4" </dev/null 2>&1 |
    while IFS= read -r line; do
        case $line in *'Waiting for SSH'*) echo "started $(((${EPOCHREALTIME/./} - begun) / 1000))" ;; esac
        printf '| %s\n' "$line" >&2
    done
# What it writes first once it was let in.
login=$(stat --format=%.6W "/var/lib/fireclaw/.vm-$id/provision.vars")
echo "login $(((${login/./} - begun) / 1000))"
