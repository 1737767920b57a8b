// A connection that fetches its token, comes back after it was closed, and stops when coming back is useless.
// `onOpen` gets each new socket: join channels there, since a new connection is in none.
async function connect(url, fetchToken, onEvent, onOpen = () => {}) {
  let wait = 500; // milliseconds, doubled up to 30 s

  for (;;) {
    // The backend may be away for a moment. `null` means that nobody is signed in.
    const token = await fetchToken().catch((error) => console.warn("no token yet:", error));
    if (token === null) return { reason: "signed out" };
    const closed = token === undefined ? {} : await new Promise((resolve) => {
      const socket = new WebSocket(`${url}/v1/connect?${new URLSearchParams({ token })}`);
      let pause; // how long the server asks to wait
      socket.onmessage = ({ data }) => {
        if (typeof data !== "string") return; // an event of bytes
        const message = JSON.parse(data);
        if (message.op === "welcome") {
          wait = 500;
          onOpen(socket);
        }
        if (message.op === "bye") pause = message.reconnect_in_ms;
        if (message.event) onEvent(message);
      };
      socket.onclose = ({ code, reason }) => resolve({ code, reason, pause });
    });

    // 4005 asks for a fresh token. The other codes from 4000 to 4099 would only come again.
    if (closed.code >= 4000 && closed.code < 4100 && closed.code !== 4005) return closed;
    await new Promise((done) => setTimeout(done, closed.pause ?? wait * (0.5 + Math.random() / 2)));
    wait = Math.min(wait * 2, 30_000);
  }
}
