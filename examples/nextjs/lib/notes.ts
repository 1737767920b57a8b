import type { Note } from "./events";

// A real application has a database. The pages and the route handlers are separate bundles of one process, so they
// share what is on `globalThis`.
const store = globalThis as { notes?: Map<string, Note[]> };
const notes = (store.notes ??= new Map());

export const notesOf = (team: string): Note[] => notes.get(team) ?? [];

export function addNote(team: string, author: string, text: string): Note {
  const list = notesOf(team);
  const note = { id: list.length + 1, author, text };
  notes.set(team, [...list, note]);
  return note;
}
