async function fetchToken() {
  const response = await fetch("http://localhost:8091/token", { credentials: "include" });
  if (response.status === 401) return null;
  if (!response.ok) throw new Error(`the backend answered ${response.status}`);
  return response.text();
}

const onEvent = (message) => console.log(message.event, message.data);
const onOpen = (socket) => socket.send(JSON.stringify({ op: "join", id: 1, channel: "room-1" }));
connect("ws://localhost:7070", fetchToken, onEvent, onOpen)
  .then(({ code, reason }) => console.log("closed", code, reason));
