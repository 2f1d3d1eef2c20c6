# What the attacks of a guest share: how one is tried, and how its result is said. Standard library alone; each is bounded in time.
import os, select, socket, struct, subprocess, sys, time

PATIENCE = 3


def said(name, got_through, detail=""):
    print("BREACH" if got_through else "held", name, detail, flush=True)


def control(name, works):
    """What must work, or an attack that fails proves nothing."""
    if not works:
        sys.exit("what must work does not: " + name)


def exchange(address, port, send=b"GET / HTTP/1.0\r\n\r\n"):
    """What comes back over TCP; empty when nothing does."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as s:
        s.settimeout(PATIENCE)
        got = b""
        try:
            s.connect((address, port))
            parts = send if isinstance(send, list) else [send]
            for part in parts:
                s.sendall(part)
            while more := s.recv(4096):
                got += more
            return got or b"(connected)"
        except OSError:
            return got


def datagram(address, port, send=b"marked\n"):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(PATIENCE)
        try:
            s.sendto(send, (address, port))
            return s.recv(2048)
        except OSError:
            return b""


def connections(address, ports, seconds=3600):
    """Those that take a connection, some hundreds asked at once, and how many were asked before the time was over."""
    ports, found, asked = list(ports), [], 0
    end = time.monotonic() + seconds
    for first in range(0, len(ports), 400):
        if time.monotonic() > end:
            break
        waiting, poll = {}, select.poll()
        for number in ports[first : first + 400]:
            s = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            # None leaves a port of this host waiting behind.
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            s.setblocking(False)
            s.connect_ex((address, number))
            waiting[s.fileno()] = s, number
            poll.register(s, select.POLLOUT)
            asked += 1
        patient = time.monotonic() + PATIENCE
        while waiting and (left := patient - time.monotonic()) > 0:
            for fd, _ in poll.poll(left * 1000):
                poll.unregister(fd)
                s, number = waiting.pop(fd)
                if s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    found.append(number)
                s.close()
        for s, _ in waiting.values():
            s.close()
    return found, asked


def open_ports(address, ports):
    return set(connections(address, ports)[0])


def pinged(address):
    return subprocess.run(["ping", "-c", "1", "-W", "2", address], capture_output=True).returncode == 0


def question(name, kind=1):
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack("!HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", kind, 1)


def has_answer(reply):
    return len(reply) >= 12 and struct.unpack("!HHHHHH", reply[:12])[3] > 0
