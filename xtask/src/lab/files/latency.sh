# Forty requests at 127.0.0.1:$1, a tenth of a second apart: their times in microseconds.
for _ in $(seq 1 40); do
    begun=${EPOCHREALTIME/[.,]/}
    # The shell's own connection: a process a request would measure the process.
    exec 3<>"/dev/tcp/127.0.0.1/$1"
    printf 'GET /health HTTP/1.0\r\n\r\n' >&3
    read -r status <&3
    exec 3>&-
    [[ $status = *200* ]]
    echo "request $((${EPOCHREALTIME/[.,]/} - begun))"
    sleep 0.1
done
