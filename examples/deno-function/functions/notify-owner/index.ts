// A database webhook calls this function with a changed row of `invoices`. It notifies the owner of the row.
import { fromEnv } from "fanfare/server";

interface Invoice {
  id: number;
  owner: string | null;
  title: string;
  status: string;
}

/** The body of a database webhook, as Supabase sends it. */
interface Change {
  type: "INSERT" | "UPDATE" | "DELETE";
  table: string;
  schema: string;
  record: Invoice | null;
  old_record: Invoice | null;
}

const fanfare = fromEnv(Deno.env.toObject());
const secret = Deno.env.get("WEBHOOK_SECRET");
if (!secret) throw new Error("set WEBHOOK_SECRET");

// Digests are compared, so that the time of the comparison says nothing about the secret.
async function digest(text: string): Promise<string> {
  const bytes = new TextEncoder().encode(text);
  const hash = await crypto.subtle.digest("SHA-256", bytes);
  return new Uint8Array(hash).join();
}
const wanted = await digest(`Bearer ${secret}`);

Deno.serve(async (request) => {
  // Everyone can call a function, so the webhook sends a secret along.
  const given = request.headers.get("authorization") ?? "";
  if ((await digest(given)) !== wanted)
    return new Response(null, { status: 401 });

  const { type, table, record, old_record: old }: Change = await request.json();
  // A deleted row has only an old record.
  const row = record ?? old;
  if (table !== "invoices" || !row?.owner)
    return new Response("nobody to notify", { status: 400 });

  // All pages of the owner get it, and nobody else. One who is away gets it later.
  const { id, owner, title, status } = row;
  const data = { type, id, title, status };
  const receipt = await fanfare.publish(owner, "invoice", data);
  return Response.json({ delivered: receipt.queued, stored: receipt.stored });
});
