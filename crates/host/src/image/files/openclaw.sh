#!/bin/sh
# OpenClaw's command line with the Node of this image and a warm compile cache. With the second variable set OpenClaw
# takes the cache as it is, instead of starting a second Node with a folder of its own choice.
PATH=/opt/openclaw/node/bin:$PATH
NODE_COMPILE_CACHE=${NODE_COMPILE_CACHE:-/var/cache/openclaw/compile}
OPENCLAW_PACKAGED_COMPILE_CACHE_RESPAWNED=1
export PATH NODE_COMPILE_CACHE OPENCLAW_PACKAGED_COMPILE_CACHE_RESPAWNED
exec /opt/openclaw/node/bin/node /opt/openclaw/lib/node_modules/openclaw/openclaw.mjs "$@"
