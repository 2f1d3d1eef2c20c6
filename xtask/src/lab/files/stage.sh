# The world of the attacks, behind the one host that stands for the outside: a LAN, a metadata service, and ports on which nothing
# should be reached under a strict policy. First of all: no way leads out of it.
routes=$(ip route show default)
[[ $routes = "default via 203.0.113.10 "* && $(wc -l <<<"$routes") = 1 ]] || { echo "there is a way out: $routes" >&2; exit 1; }
links=$(ip -n outside -o link show | sed 's/^[0-9]*: \([^:@]*\).*/\1/' | sort | tr '\n' ' ')
[[ $links = "eth0 lo " ]] || { echo "the outside has more links: $links" >&2; exit 1; }
ip netns exec outside sysctl --quiet --write net.ipv4.ip_forward=0
for address in 169.254.169.254 10.99.0.5 192.168.77.5; do
    ip -n outside address replace "$address/32" dev eth0
    ip route replace "$address/32" via 203.0.113.10
    ip netns exec outside busybox httpd -p "$address:80" -h /run/outside
done
# A site of its own for the name that the policy allows: that it is reached proves that the way is open to names.
mkdir -p /run/allowed
echo allowed >/run/allowed/index.html
ip -n outside address replace 203.0.113.11/24 dev eth0
ip netns exec outside busybox httpd -p 203.0.113.11:80 -h /run/allowed
# An IPv6 address of a metadata service, on the host itself: a packet for it would be answered.
ip -6 address replace fd00:ec2::254/128 dev lo
for port in 443 853 8080; do
    ip netns exec outside busybox httpd -p "$port" -h /run/outside
    ip netns exec outside socat "UDP4-RECVFROM:$port,fork" EXEC:cat </dev/null >/dev/null 2>&1 &
done
ip netns exec outside socat UDP4-RECVFROM:53,fork EXEC:'perl /run/name-server.pl' </dev/null >/dev/null 2>&1 &
# It answers from the address that it was asked at.
ip netns exec outside socat UDP4-RECVFROM:7,bind=10.99.0.5,fork EXEC:cat </dev/null >/dev/null 2>&1 &
# From here, where nothing of fireclaw is in the way, each of them answers.
answers() { for _ in $(seq 50); do "$@" && return; sleep 0.1; done; echo "no answer: $*" >&2; exit 1; }
page() { [[ $(curl -s --max-time 5 "http://$1/") = outside ]]; }
echoed() { [[ $(echo marked | socat -t 2 - "UDP4:$1") = marked ]]; }
for target in 203.0.113.10 203.0.113.10:443 203.0.113.10:853 203.0.113.10:8080 169.254.169.254 10.99.0.5 192.168.77.5; do
    answers page "$target"
done
for target in 203.0.113.10:443 203.0.113.10:8080 10.99.0.5:7; do
    answers echoed "$target"
done
question='\0\7\1\0\0\1\0\0\0\0\0\0\1x\4test\0\0\1\0\1'
named() { [[ $(printf "$question" | socat -t 2 - UDP4:203.0.113.10:53 | tail -c 4 | od -An -tu1 | tr -s ' ') = " 203 0 113 11" ]]; }
answers named
