// Preloaded into Node.js programs: names below localhost lead to this machine, all others nowhere.
import dns from "node:dns";
import { syncBuiltinESMExports } from "node:module";

const LOOPBACK = { address: "127.0.0.1", family: 4 };

function answer(host, options) {
  if (host !== "localhost" && !host.endsWith(".localhost") && host !== LOOPBACK.address) {
    throw Object.assign(new Error(`${host} is not on this machine`), { code: "ENOTFOUND" });
  }
  return options?.all ? [LOOPBACK] : LOOPBACK;
}

dns.promises.lookup = async (host, options) => answer(host, options);

dns.lookup = (host, options, done = options) => {
  let found;
  try {
    found = answer(host, options);
  } catch (error) {
    process.nextTick(done, error);
    return;
  }
  if (Array.isArray(found)) process.nextTick(done, null, found);
  else process.nextTick(done, null, found.address, found.family);
};

syncBuiltinESMExports();
