// Loaded before the gateway while an image is built: ends it once it is ready, so that Node writes its compile cache.
let ended = false;
function end(why) {
  if (ended) return;
  ended = true;
  process.stderr.write(`warm: ${why}\n`);
  setTimeout(() => process.kill(process.pid, "SIGTERM"), 1000);
}

// What was compiled by then is worth keeping too.
setTimeout(() => end("not ready within 90 s"), 90_000).unref();

const write = process.stdout.write.bind(process.stdout);
process.stdout.write = (chunk, ...rest) => {
  const text = String(chunk).replace(/\x1b\[[0-9;]*m/g, "");
  if (/\[gateway\] ready\b/.test(text)) end("ready");
  return write(chunk, ...rest);
};
