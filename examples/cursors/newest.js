// Refusals and failures that pass. The newest value is sent again after them.
const passing = ["rate_limited", "busy", "connection_lost", "timeout"];

/**
 * Returns a function that takes values and sends the newest one. A value that was not sent yet is replaced by the next.
 *
 * - At most one value is sent in `interval` milliseconds.
 * - None is sent while `window` of them wait for their ack, so that nothing piles up on a slow connection.
 * - None is sent without a connection. The newest one is sent when it is back.
 */
export function newest(client, send, { interval = 50, window = 4 } = {}) {
  const counts = { sent: 0, replaced: 0 };
  let value;
  let unacknowledged = 0;
  let timer;

  function pause(time) {
    clearTimeout(timer);
    timer = setTimeout(() => {
      timer = undefined;
      flush();
    }, time);
  }

  async function flush() {
    const isConnected = client.state.status === "connected";
    if (!value || timer || unacknowledged >= window || !isConnected) return;

    const mine = value;
    value = undefined;
    unacknowledged += 1;
    counts.sent += 1;
    pause(interval);

    try {
      await send(mine);
    } catch (error) {
      if (!passing.includes(error.code)) throw error;
      // A newer value may be there already.
      value ??= mine;
      // The server allows 50 messages a second for all pages of a user.
      if (error.code === "rate_limited") pause(1000);
    } finally {
      unacknowledged -= 1;
      flush();
    }
  }

  client.onState(flush);

  function push(next) {
    if (value) counts.replaced += 1;
    value = next;
    flush();
  }
  return { push, counts };
}
