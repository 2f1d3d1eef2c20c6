#!/bin/busybox sh
# Stands where Node stands in an image with OpenClaw: answers the gateway's probes, checks no configuration. Node's own flags
# come before the words that it looks for.
for word; do
    case $word in
    gateway) exec /bin/busybox httpd -f -p 18789 -h /opt/openclaw/www ;;
    config) exec echo '{"valid":true}' ;;
    --version) exec echo v0 ;;
    esac
done
