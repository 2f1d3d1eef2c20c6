#!/bin/busybox sh
# Stands where Node stands in an image with OpenClaw: answers the gateway's probes, checks no configuration.
case $2 in
gateway) exec /bin/busybox httpd -f -p 18789 -h /opt/openclaw/www ;;
config) echo '{"valid":true}' ;;
--version) echo v0 ;;
esac
