"use client";

import { createClient } from "fanfare";
import { useChannel, useConnection, useEvent, useMembers } from "fanfare/react";
import { type FormEvent, useEffect, useRef, useState } from "react";
import { type Events, type Note, roomOf } from "../lib/events";

interface Props {
  user: string;
  team: string;
  url: string;
  stored: Note[];
}

async function token() {
  const response = await fetch("/api/token");
  // null: nobody is signed in, so the client closes. An error: the client tries again.
  if (response.status === 401) return null;
  if (!response.ok)
    throw new Error(`the token endpoint answered ${response.status}`);
  return response.text();
}

// A note may come twice: by its event, and by a request.
const merge = (notes: Note[], more: Note[]) =>
  [
    ...new Map([...notes, ...more].map((note) => [note.id, note])).values(),
  ].sort((a, b) => a.id - b.id);

export function Board({ user, team, url, stored }: Props) {
  // One client for the life of the component. The hooks connect it, and close it at the end.
  const [client] = useState(() =>
    createClient<Events>(url, { token, echo: false }),
  );
  const room = roomOf(team);
  const { status } = useConnection(client);
  const { channel } = useChannel(client, room);
  const members = useMembers(client, room);

  const [notes, setNotes] = useState(stored);
  const [typing, setTyping] = useState<string>();
  useEvent(client, "note", (note) => {
    setNotes((known) => merge(known, [note]));
    setTyping((who) => (who === note.author ? undefined : who));
  });

  // Events are for those who are connected. What came before or meanwhile is fetched.
  useEffect(() => {
    if (status !== "connected") return;
    const aborted = new AbortController();
    fetch("/api/notes", { signal: aborted.signal })
      .then((response) => response.json())
      .then((all: Note[]) => setNotes((known) => merge(known, all)))
      .catch((error) => aborted.signal.aborted || console.error(error));
    return () => aborted.abort();
  }, [status]);

  // Sent from page to page, without a route handler.
  useEvent(
    client,
    "typing",
    (_, { from }) => setTyping(from?.user ?? undefined),
    { channel: room },
  );
  useEffect(() => {
    if (!typing) return;
    const timer = setTimeout(setTyping, 3000, undefined);
    return () => clearTimeout(timer);
  }, [typing]);

  const told = useRef(0);
  function tellTyping() {
    if (Date.now() - told.current < 2000) return;
    told.current = Date.now();
    channel?.send("typing");
  }

  const [text, setText] = useState("");
  const [result, setResult] = useState("");
  async function add(event: FormEvent) {
    event.preventDefault();
    setText("");
    const response = await fetch("/api/notes", {
      method: "POST",
      body: JSON.stringify({ text }),
    });
    if (!response.ok) return setResult(`not added: ${response.status}`);
    const { note, reached } = await response.json();
    setNotes((known) => merge(known, [note]));
    setResult(`sent to ${reached} ${reached === 1 ? "page" : "pages"}`);
  }

  const here = [...new Set(members.map((member) => member.user))];

  return (
    <main>
      <header className="row">
        <h1>
          Board <span className={`team ${team}`}>{team} team</span>
        </h1>
        <form action="/api/session" method="post">
          <span className="quiet">{user}</span>{" "}
          <button className="plain">Sign out</button>
        </form>
      </header>
      <p className="quiet" id="state" role="status">
        {status}
      </p>

      <ul className="here" id="here" aria-label="Here now">
        {here.map((name) => (
          <li key={name}>{name}</li>
        ))}
      </ul>

      <ol className="card notes" id="notes" aria-live="polite">
        {notes.map(({ id, author, text }) => (
          <li key={id}>
            <strong>{author}</strong> <span>{text}</span>
          </li>
        ))}
      </ol>
      <p className="quiet" id="typing">
        {typing && `${typing} is typing…`}
      </p>

      <form className="row" onSubmit={add}>
        <input
          value={text}
          onChange={(event) => {
            setText(event.target.value);
            tellTyping();
          }}
          aria-label="Note"
          placeholder="Note"
          autoComplete="off"
          maxLength={500}
          required
        />
        <button>Add</button>
      </form>
      <p className="quiet" id="result" role="status">
        {result}
      </p>
    </main>
  );
}
