const name =
  new URLSearchParams(location.search).get("name") ??
  prompt("Your name?") ??
  "";
const state = document.querySelector("#state");
const show = (list, text) => {
  const item = document.createElement("li");
  item.textContent = text;
  document.querySelector(list).append(item);
  item.scrollIntoView();
};

// The page's own backend knows the visitor, and where the Fanfare server is.
async function session() {
  const response = await fetch(`/session?${new URLSearchParams({ name })}`);
  if (response.ok) return response.json();
  state.textContent = await response.text();
  throw new Error(state.textContent);
}

const { url } = await session();
const { connect } = await import(new URL("/fanfare.js", url));
const client = connect(url, { token: async () => (await session()).token });
client.onState(
  ({ status, reason }) => (state.textContent = `${status} (${reason})`),
);

// Everything that the channel keeps, then what is new. After a reconnect the client gets what it missed.
const room = client.join("room-lobby", { members: true, since: { offset: 0 } });
room.on("message", ({ text }, { from }) =>
  show("#messages", `${from?.user}: ${text}`),
);
room.onMembers((members) => {
  document.querySelector("#here").replaceChildren();
  for (const user of new Set(members.map((member) => member.user)))
    show("#here", user);
});

document.querySelector("#form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const input = document.querySelector("#text");
  const text = input.value;
  input.value = "";
  // The message comes back like everyone's, in the order of the channel.
  await room
    .send("message", { text })
    .catch((error) => show("#messages", `not sent: ${error.message}`));
});
