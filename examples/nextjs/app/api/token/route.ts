import { signToken } from "fanfare/server";
import { roomOf } from "../../../lib/events";
import { signedIn } from "../../../lib/session";

/** A token for the page of the person who is signed in. */
export async function GET() {
  const person = await signedIn();
  if (!person) return new Response(null, { status: 401 });

  const { user, team } = person;
  const room = [roomOf(team)];
  const token = await signToken(process.env.FANFARE_TOKEN_SECRET ?? "", user, {
    claims: { team },
    can: { join: room, members: room, send: room },
  });
  return new Response(token, { headers: { "Cache-Control": "no-store" } });
}
