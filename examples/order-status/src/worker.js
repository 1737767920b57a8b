import { fromEnv, signToken, where } from "fanfare/server";

const statuses = ["placed", "packed", "shipped", "delivered"];

// A real application takes the user and the role from its session.
const roles = { ann: "customer", bob: "customer", sam: "support" };

function signedIn(request) {
  const cookie = request.headers.get("cookie") ?? "";
  const user = /user=(\w+)/.exec(cookie)?.[1];
  return user && roles[user] && { user, role: roles[user] };
}

/** `GET /session`: who is signed in, where to connect, and a token. */
async function session(env, { user, role }) {
  const token = await signToken(env.FANFARE_TOKEN_SECRET, user, {
    claims: { role },
    // The page says in its profile which orders it watches.
    can: { update: true },
    ttl: 600,
  });
  const url = env.FANFARE_URL ?? "http://127.0.0.1:7070";
  return Response.json({ user, role, url, token });
}

const orderOf = (row) => ({ ...row, customers: JSON.parse(row.customers) });

const maySee = ({ user, role }, order) =>
  role === "support" || order.customers.includes(user);

/** `GET /orders`: the orders that this person may see. */
async function orders(env, person) {
  const { results } = await env.DB.prepare(
    "SELECT * FROM orders ORDER BY id",
  ).all();
  return Response.json(
    results.map(orderOf).filter((order) => maySee(person, order)),
  );
}

/** `POST /orders/:id/status` with `{"status"}`: changes it, and sends it to those who watch the order. */
async function setStatus(env, { role }, id, request) {
  if (role !== "support") return new Response(null, { status: 403 });
  const { status } = await request.json();
  if (!statuses.includes(status)) return new Response(null, { status: 400 });

  const row = await env.DB.prepare(
    "UPDATE orders SET status = ?, version = version + 1 WHERE id = ? RETURNING *",
  )
    .bind(status, id)
    .first();
  if (!row) return new Response(null, { status: 404 });

  const order = orderOf(row);
  return Response.json({ ...order, reached: await announce(env, order) });
}

/** Sends an order to those who watch it and may see it. Returns how many connections these are. */
async function announce(env, order) {
  // The client chooses its profile, so this says only what it wants to see.
  const watches = where`${order.id} in profile.watching`;
  // The token says what it may see.
  const maySee = where`user in ${order.customers} || auth.role == "support"`;

  try {
    const filter = where`${watches} && ${maySee}`;
    const receipt = await fromEnv(env).emit("order-status", order, filter);
    return receipt.queued;
  } catch (error) {
    // The change is stored, and pages fetch it when they connect again.
    console.error(error);
    return 0;
  }
}

export default {
  async fetch(request, env) {
    const { pathname } = new URL(request.url);
    const route = `${request.method} ${pathname}`;
    const person = signedIn(request);
    if (!person) return new Response(null, { status: 401 });

    if (route === "GET /session") return session(env, person);
    if (route === "GET /orders") return orders(env, person);
    const [, id] = /^POST \/orders\/(\d+)\/status$/.exec(route) ?? [];
    if (id) return setStatus(env, person, id, request);
    return new Response(null, { status: 404 });
  },
};
