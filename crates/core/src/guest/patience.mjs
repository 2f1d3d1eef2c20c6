// Loaded before OpenClaw by the gateway's unit. OpenClaw gives one of its threads five seconds to start and ends when they
// are over. The thread needs a quarter of a second of a processor, which is five to eight seconds on an emulated one. On a
// machine that is so slow that Node itself took long to get here, that one limit becomes two minutes; elsewhere nothing
// is changed.
const SLOW = 150;
const LIMIT = 5_000;
const STRETCHED = 120_000;
const WHOSE = "openclaw-state-lease-heartbeat";

if (performance.now() > SLOW) {
  const original = globalThis.setTimeout;
  const patient = function setTimeout(callback, delay, ...rest) {
    const stretch = delay === LIMIT && new Error().stack.includes(WHOSE);
    return original(callback, stretch ? STRETCHED : delay, ...rest);
  };
  // What hangs on the function, as util.promisify's symbol, stays.
  Object.defineProperties(patient, Object.getOwnPropertyDescriptors(original));
  globalThis.setTimeout = patient;
}
