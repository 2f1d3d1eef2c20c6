# A gateway's start in turns, as root in the guest: one service of ours, and the same command as a person would write it.
# Says for each: turn, kind, seconds until OpenClaw says that it is ready, seconds of processor time.
set -euo pipefail
unit=$1
turns=$2

# The plain one has what it cannot run without (user, folder, token) and nothing of ours.
make() {
    local from=/etc/systemd/system/$unit to=/run/systemd/system/start-$1.service
    {
        echo '[Service]'
        grep -E '^(User|Group|WorkingDirectory|EnvironmentFile|Environment=PATH)' "$from"
        echo "StandardOutput=truncate:/run/start-$1.log"
        echo 'StandardError=inherit'
        if [ "$1" = ours ]; then
            grep -E '^(Environment=[^P]|CacheDirectory|ExecStart=)' "$from"
        else
            sed -n 's/^\(ExecStart=[^ ]*\) --import [^ ]* /\1 /p' "$from"
        fi
    } > "$to"
}

seconds() { local up; read -r up _ < /proc/uptime; echo "$up"; }

# Nothing is started while waiting: on one processor of a slow guest that alone would be seen.
one() {
    local kind=$1 log=/run/start-$1.log begun now deadline
    rm -rf /tmp/node-compile-cache /tmp/openclaw-*
    sync
    echo 3 > /proc/sys/vm/drop_caches
    # The service's own process empties it again, some time after systemd says that it runs.
    : > "$log"
    begun=$(seconds)
    deadline=$((${begun%.*} + 900))
    systemctl start "start-$kind.service"
    while read -r now _ < /proc/uptime; do
        if [[ $(< "$log") == *'[gateway] ready'* ]]; then break; fi
        if [ "${now%.*}" -gt "$deadline" ] || [ ! -d "/sys/fs/cgroup/system.slice/start-$kind.service" ]; then
            echo "$turn $kind failed $now $(tail -n 1 "$log")"
            systemctl stop "start-$kind.service" || true
            return 1
        fi
        read -rt 1 -u 9 || true
    done
    awk -v turn="$turn" -v kind="$kind" -v begun="$begun" -v now="$(seconds)" \
        -v spent="$(systemctl show --property CPUUsageNSec --value "start-$kind.service")" \
        'BEGIN { printf "%s %s %.1f %.1f\n", turn, kind, now - begun, spent / 1e9 }'
    systemctl stop "start-$kind.service"
}

exec 9<> <(:)
systemctl stop "$unit"
make ours
make plain
systemctl daemon-reload
for turn in $(seq "$turns"); do
    for kind in plain ours; do
        # OpenClaw gives one of its threads five seconds, which a slow guest misses at times: a plain start may end for it.
        one "$kind" || one "$kind" || one "$kind" || true
    done
done
systemctl start --no-block "$unit"
