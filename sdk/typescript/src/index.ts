/** The client of Fanfare: one WebSocket that authenticates, reconnects, joins its channels again and recovers. */
export { connect, createClient } from "./client.js";
export { FanfareError } from "./error.js";
export type * from "./types.js";
