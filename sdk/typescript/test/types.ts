// What the types promise. It is compiled and never run.
import { connect, createClient, FanfareError, type Client, type Message } from "fanfare";

interface Events {
  chat: { text: string };
  typing: undefined;
  pair: [x: number, y: number];
  bytes: Uint8Array;
}

const client: Client<Events> = createClient<Events>("wss://example.com", { token: async () => "t" });

client.on("chat", (data, message) => {
  const text: string = data.text;
  const channel: string | undefined = message.channel;
  void [text, channel];
});
client.on("pair", (x, y) => void (x + y), { spread: true });
client.once("pair", (pair) => void pair[0].toFixed());
// @ts-expect-error: there is no such event.
client.on("chatt", () => {});
// @ts-expect-error: the data have no such field.
client.on("chat", (data) => data.body);

void client.send("room", "chat", { text: "hi" });
void client.send("room", "typing");
void client.send("room", "pair", 1, 2);
void client.send("room", "pair", [1, 2]);
void client.broadcast("bytes", new Uint8Array());
// @ts-expect-error: the data are missing.
void client.send("room", "chat");
// @ts-expect-error: the data are of another type.
void client.send("room", "chat", { text: 1 });
// @ts-expect-error: too many arguments.
void client.send("room", "chat", { text: "hi" }, 2);

const room = client.join("room", { members: true });
room.onMembers((members) => members.map(({ id, user }) => [id, user]));
void room.send("chat", { text: "hi" });

async function iterate() {
  for await (const message of client.events("chat")) {
    const typed: Message<{ text: string }, "chat"> = message;
    void typed.data.text;
  }
}
void iterate;

// Without a map every event has data of any type.
const loose = connect("wss://example.com");
loose.on("anything", (data) => data.whatever);
void loose.send("room", "anything", 1, "two");

const state: "idle" | "connecting" | "connected" | "waiting" | "closed" = client.state.status;
void [state, new FanfareError("code", "message").code.length];
