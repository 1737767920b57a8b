import { fromEnv, where } from "fanfare/server";
import type { Events } from "../../../lib/events";
import { addNote, notesOf } from "../../../lib/notes";
import { signedIn } from "../../../lib/session";

const fanfare = fromEnv<Events>();

/** The notes of the team. */
export async function GET() {
  const person = await signedIn();
  if (!person) return new Response(null, { status: 401 });
  return Response.json(notesOf(person.team));
}

/** Adds a note, and sends it to all pages of the team. */
export async function POST(request: Request) {
  const person = await signedIn();
  if (!person) return new Response(null, { status: 401 });

  const { text } = await request.json();
  if (typeof text !== "string" || !text.trim() || text.length > 500)
    return new Response(null, { status: 400 });
  const note = addNote(person.team, person.user, text.trim());

  try {
    const team = where`auth.team == ${person.team}`;
    const { queued } = await fanfare.emit("note", note, team);
    return Response.json({ note, reached: queued });
  } catch (error) {
    // The note is stored, and pages fetch it when they connect again.
    console.error(error);
    return Response.json({ note, reached: 0 });
  }
}
