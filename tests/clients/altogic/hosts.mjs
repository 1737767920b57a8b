// The client makes a host of its own out of the address that it is given: `http://engine.app.localhost:1/e:env1` becomes
// `realtime.app.localhost`. Not every resolver knows the names under localhost, so they are answered here.
import dns from "node:dns";

const { lookup } = dns;

dns.lookup = function (host, options, callback = options) {
  if (!host.endsWith(".localhost")) return lookup.apply(this, arguments);
  const answer = { address: "127.0.0.1", family: 4 };
  const all = typeof options === "object" && options?.all;
  process.nextTick(() => (all ? callback(null, [answer]) : callback(null, answer.address, answer.family)));
};
