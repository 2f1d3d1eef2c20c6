# The outside of the lab's host: a network namespace with one web server in it, and the host's way there.
ip netns add outside
ip link add out0 type veth peer name eth0 netns outside
ip address add 203.0.113.1/24 dev out0
ip link set out0 up
ip -n outside address add 203.0.113.10/24 dev eth0
ip -n outside link set eth0 up
ip -n outside link set lo up
ip -n outside route add default via 203.0.113.1
ip route replace default via 203.0.113.10
mkdir -p /run/outside
echo outside >/run/outside/index.html
ip netns exec outside busybox httpd -p 203.0.113.10:80 -h /run/outside
