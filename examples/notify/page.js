import { connect } from "/fanfare.js";

// Signs in. A real application has a form and a password for this.
const user = new URLSearchParams(location.search).get("user") ?? "ann";
document.cookie = `user=${user}; SameSite=Strict`;
document.querySelector("#user").textContent = user;

async function session() {
  const response = await fetch("/session");
  // null: nobody is signed in, so the client closes. An error: the client tries again.
  if (response.status === 401) return { token: null };
  if (!response.ok) throw new Error(`the backend answered ${response.status}`);
  return response.json();
}

const { url } = await session();
const client = connect(url, { token: async () => (await session()).token });
client.onState(
  ({ status, reason }) =>
    (document.querySelector("#state").textContent = `${status} (${reason})`),
);
client.on("notification", ({ text, at }) => {
  const item = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = new Date(at).toLocaleTimeString();
  item.append(time, " ", text);
  document.querySelector("#list").append(item);
});

document.querySelector("#form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const body = JSON.stringify(Object.fromEntries(new FormData(event.target)));
  const response = await fetch("/notify", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body,
  });
  document.querySelector("#result").textContent = await response.text();
});
