# What a guest sees on its link: how many frames with the mark of the attacks, until the host says that it is enough, and for $1
# seconds at the most.
import os, socket, sys, time

marked = 0
end = time.monotonic() + float(sys.argv[1])
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as raw:
    raw.bind((next(name for name in os.listdir("/sys/class/net") if name != "lo"), 0))
    print("looking", flush=True)
    while (left := end - time.monotonic()) > 0:
        raw.settimeout(left)
        try:
            frame, (_, _, kind, *_) = raw.recvfrom(65535)
        except TimeoutError:
            break
        if kind == socket.PACKET_OUTGOING:
            continue
        marked += b"fireclaw-attack" in frame
        if b"fireclaw-enough" in frame:
            print("marked", marked)
            break
