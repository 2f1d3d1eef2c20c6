// Loaded before OpenClaw by the gateway's unit, in its workers too. OpenClaw is thousands of modules that name each other by
// relative paths, and for each such name Node looks for links and reads package.json's long list of exports anew: a tenth of a
// start on a slow machine. A name within OpenClaw's own folder is what it says, and a module of ES when its file ends so.
// OpenClaw has the like for files that end in .js, and leaves it out when somebody else's script is loaded first, as here.
// An older Node has no such hooks and would refuse to load this if it imported them by their name.
import module from "node:module";

const PLAIN = /^\.\/[\w-][\w.-]*\.mjs$/;
const OWN = /^file:\/\/\/(?:[^?#]*\/openclaw|app)\/dist\/[^?#]*$/;

module.registerHooks?.({
  resolve(specifier, context, next) {
    if (PLAIN.test(specifier) && context.parentURL !== undefined && OWN.test(context.parentURL)) {
      const folder = context.parentURL.slice(0, context.parentURL.lastIndexOf("/") + 1);
      return { url: folder + specifier.slice(2), format: "module", shortCircuit: true };
    }
    return next(specifier, context);
  },
});
