import { connect } from "/fanfare.js";

// Signs in. A real application has a form and a password for this.
const user = new URLSearchParams(location.search).get("user") ?? "ann";
document.cookie = `user=${user}; SameSite=Strict`;
document
  .querySelector(`a[href="?user=${CSS.escape(user)}"]`)
  ?.setAttribute("aria-current", "page");

async function session() {
  const response = await fetch("/session");
  if (!response.ok) throw new Error(`the backend answered ${response.status}`);
  return response.json();
}

const { url } = await session();
const client = connect(url, { token: async () => (await session()).token });
client.onState(
  ({ status, reason }) =>
    (document.querySelector("#state").textContent = `${status} (${reason})`),
);

const words = { INSERT: "new", UPDATE: "changed", DELETE: "deleted" };

client.on("invoice", ({ type, id, title, status }) => {
  const { content } = document.querySelector("#change");
  const item = content.cloneNode(true).firstElementChild;
  item.querySelector("strong").textContent = title;
  item.querySelector(".quiet").textContent = `Invoice ${id}, ${words[type]}`;
  item.querySelector(".status").textContent = status;
  item.querySelector(".status").dataset.status = status;
  document.querySelector("#list").prepend(item);
});

// --- The stand-in for the database ---

const titles = { 1: "Website", 2: "Logo" };
const owners = { 1: "ann", 2: "bob" };

document.querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const { id, status } = Object.fromEntries(new FormData(event.target));
  const record = { id: Number(id), owner: owners[id], title: titles[id] };
  const body = {
    type: "UPDATE",
    table: "invoices",
    schema: "public",
    record: { ...record, status },
    old_record: { ...record, status: "draft" },
  };
  const response = await fetch("/rows", {
    method: "POST",
    body: JSON.stringify(body),
  });
  document.querySelector("#result").textContent =
    `the function answered ${response.status} ${await response.text()}`;
});
