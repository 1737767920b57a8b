import { notesOf } from "../lib/notes";
import { people, signedIn } from "../lib/session";
import { Board } from "./board";

export default async function Page() {
  const person = await signedIn();
  if (!person) return <SignIn />;

  // Where pages reach the server. In production this is its public address.
  const url = process.env.FANFARE_URL ?? "http://127.0.0.1:7070";
  return <Board {...person} url={url} stored={notesOf(person.team)} />;
}

function SignIn() {
  return (
    <main>
      <h1>Board</h1>
      <p className="quiet">ann and bob are of the red team, cat of the blue.</p>
      <form className="card row" action="/api/session" method="post">
        <select name="user" aria-label="Sign in as">
          {people.map((user) => (
            <option key={user}>{user}</option>
          ))}
        </select>
        <button>Sign in</button>
      </form>
    </main>
  );
}
