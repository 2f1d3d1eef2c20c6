# Ninety-nine more of instance $1: records and units, none running. Then how long a list takes, five times, in milliseconds.
id=$1
state=/var/lib/fireclaw units=/etc/systemd/system
for n in $(seq 2 100); do
    new="$id-$n"
    cp -a "$state/.vm-$id" "$state/.vm-$new"
    sed -i -e "s/^INSTANCE_ID=.*/INSTANCE_ID=$new/" -e "s/^HOST_PORT=.*/HOST_PORT=$((20000 + n))/" \
        -e "s/^VM_IP=.*/VM_IP=172.16.0.$((n + 100))/" -e "s/^VM_TAP=.*/VM_TAP=thundred$n/" "$state/.vm-$new/.env"
    for unit in firecracker-vmdemo vmdemo-proxy; do
        sed "s/$id/$new/g" "$units/$unit-$id.service" >"$units/$unit-$new.service"
    done
done
systemctl daemon-reload
for _ in 1 2 3 4 5; do
    begun=${EPOCHREALTIME/[.,]/}
    fireclaw list --json >/run/list.json
    echo "list $(((${EPOCHREALTIME/[.,]/} - begun) / 1000))"
done
grep -c '"id"' /run/list.json
for n in $(seq 2 100); do
    rm -rf "$state/.vm-$id-$n" "$units/firecracker-vmdemo-$id-$n.service" "$units/vmdemo-proxy-$id-$n.service"
done
systemctl daemon-reload
