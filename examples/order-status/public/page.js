import { connect } from "/fanfare.js";

const statuses = ["placed", "packed", "shipped", "delivered"];

// Signs in. A real application has a form and a password for this.
const name = new URLSearchParams(location.search).get("user") ?? "ann";
document.cookie = `user=${name}; SameSite=Strict`;
document
  .querySelector(`a[href="?user=${CSS.escape(name)}"]`)
  ?.setAttribute("aria-current", "page");

async function get(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

// --- What the page knows ---

const { role, url } = await get("/session");
const orders = new Map();
const watching = new Set();

// An event may overtake the answer of a request, so that the answer is older.
function take(order) {
  if (orders.get(order.id)?.version >= order.version) return;
  // A customer watches every order from the start.
  if (!orders.has(order.id) && role === "customer") watching.add(order.id);
  orders.set(order.id, order);
  show(order);
}

// --- Live ---

const client = connect(url, {
  token: async () => (await get("/session")).token,
});
client.on("order-status", take);

client.onState(({ status, reason }) => {
  document.querySelector("#state").textContent = `${status} (${reason})`;
  // Events are for those who are connected. What changed meanwhile is fetched.
  if (status === "connected") catchUp();
});

// Watches first and fetches then, so that no change falls in between.
async function watch() {
  await client.update({ watching: [...watching] });
  for (const order of await get("/orders")) take(order);
}

async function catchUp() {
  const before = watching.size;
  await watch();
  // The first answer says which orders there are to watch.
  if (watching.size > before) await watch();
}

// --- Showing ---

function show(order) {
  const id = `order-${order.id}`;
  let card = document.getElementById(id);
  if (!card) {
    const { content } = document.querySelector("#order");
    card = content.cloneNode(true).firstElementChild;
    card.id = id;
    card.setAttribute("aria-label", order.title);
    document.querySelector("#orders").append(card);

    card.querySelector("h2").textContent = order.title;
    card.querySelector(".quiet").textContent =
      `Order ${order.id} of ${order.customers.join(" and ")}`;
    const box = card.querySelector("input");
    box.checked = watching.has(order.id);
    box.addEventListener("change", () => {
      if (box.checked) watching.add(order.id);
      else watching.delete(order.id);
      watch();
    });
  }

  const reached = statuses.indexOf(order.status);
  const steps = statuses.map((status, index) => {
    const step = document.createElement("li");
    step.className = index <= reached ? "done" : "";
    if (index === reached) step.setAttribute("aria-current", "step");
    if (role === "support") step.append(button(order.id, status));
    else step.textContent = status;
    return step;
  });
  card.querySelector("ol").replaceChildren(...steps);
}

function button(id, status) {
  const element = document.createElement("button");
  element.textContent = status;
  element.addEventListener("click", async () => {
    const response = await fetch(`/orders/${id}/status`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ status }),
    });
    const { reached, ...order } = await response.json();
    take(order);
    document.querySelector(`#order-${id} .result`).textContent =
      `sent to ${reached} ${reached === 1 ? "connection" : "connections"}`;
  });
  return element;
}
