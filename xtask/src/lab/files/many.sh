# $1 setups at once on the VMM $2, with small guests; lists them meanwhile.
count=$1 vmm=$2
for n in $(seq 1 "$count"); do
    fireclaw setup --instance "many-$n" --image tiny --vmm "$vmm" --vm-vcpu 1 --vm-mem-mib 192 --disk-size 2G \
        --dns 203.0.113.10 --quiet >"/tmp/many-$n.log" 2>&1 &
    pids[n]=$!
done
sleep 5
fireclaw list
failed=0
for n in $(seq 1 "$count"); do
    wait "${pids[n]}" || { failed=1; echo "many-$n:"; tail -n 40 "/tmp/many-$n.log"; } >&2
done
exit $failed
