import { connect } from "/fanfare.js";
import { newest } from "/newest.js";

const query = new URLSearchParams(location.search);
const name = query.get("name") ?? prompt("Your name?") ?? "";
const session = async () => {
  const response = await fetch(`/session?${new URLSearchParams({ name })}`);
  if (!response.ok) throw new Error(`the backend answered ${response.status}`);
  return response.json();
};

const { url } = await session();
const client = connect(url, {
  token: async () => (await session()).token,
  // A page knows where its own cursor is.
  echo: false,
});
// The profile, which the members see. It is sent again after each reconnect.
client.update({ hue: Math.floor(Math.random() * 360) });
const room = client.join("cursors", { members: true });

// --- Sending: a place as four bytes, or no bytes where the pointer has left ---

const stage = document.querySelector("#stage");
const cursor = newest(client, (bytes) => {
  showCounts();
  return room.send("cursor", bytes);
});
const nowhere = new Uint8Array();
let place = nowhere;

function move(bytes) {
  // A browser also says that the pointer moved when the page moved below it.
  if (`${bytes}` === `${place}`) return;
  place = bytes;
  cursor.push(bytes);
  showCounts();
}

function bytesOf({ clientX, clientY }) {
  const { left, top, width, height } = stage.getBoundingClientRect();
  const part = (value, size) => Math.max(0, Math.min(1, value / size)) * 65535;
  const view = new DataView(new ArrayBuffer(4));
  view.setUint16(0, part(clientX - left, width));
  view.setUint16(2, part(clientY - top, height));
  return new Uint8Array(view.buffer);
}

stage.addEventListener("pointermove", (event) => move(bytesOf(event)));
stage.addEventListener("pointerdown", (event) => move(bytesOf(event)));
stage.addEventListener("pointerleave", () => move(nowhere));

// --- Receiving ---

const places = new Map();
let known = new Set();

room.on("cursor", (bytes, { from }) => {
  places.set(from.connection, bytes);
  show();
});

room.onMembers((members) => {
  const ids = new Set(members.map(({ id }) => id));
  for (const id of places.keys()) if (!ids.has(id)) places.delete(id);

  // Who has just come does not know where this cursor is.
  const isNew = (id) => id !== client.state.connection && !known.has(id);
  if ([...ids].some(isNew) && place.length) cursor.push(place);
  known = ids;
  show();
});

client.onState(({ status, reason }) => {
  document.querySelector("#state").textContent = `${status} (${reason})`;
  document.body.dataset.status = status;
});

// --- Showing ---

const elements = new Map();

function show() {
  const others = room.members.filter(
    ({ id }) => id !== client.state.connection,
  );

  for (const [id, { arrow, chip }] of elements) {
    if (others.some((other) => other.id === id)) continue;
    arrow.remove();
    chip.remove();
    elements.delete(id);
  }

  for (const { id, user, data } of others) {
    if (!elements.has(id)) elements.set(id, make(user));
    const { arrow, chip } = elements.get(id);
    for (const each of [arrow, chip])
      each.style.setProperty("--hue", data?.hue ?? 0);

    const bytes = places.get(id);
    arrow.hidden = !bytes?.length;
    if (arrow.hidden) continue;
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    arrow.style.left = `${(view.getUint16(0) / 65535) * 100}%`;
    arrow.style.top = `${(view.getUint16(2) / 65535) * 100}%`;
  }
}

function make(user) {
  const { content } = document.querySelector("#other");
  const [arrow, chip] = content.cloneNode(true).children;
  for (const each of [arrow, chip])
    each.querySelector("span").textContent = user ?? "anonymous";
  stage.append(arrow);
  document.querySelector("#here").append(chip);
  return { arrow, chip };
}

function showCounts() {
  const { sent, replaced } = cursor.counts;
  document.querySelector("#sent").textContent = sent;
  document.querySelector("#replaced").textContent = replaced;
}
