// What the types promise. It is compiled and never run.
import { connect, createClient, FanfareError, type Client, type Message } from "fanfare";
import { Fanfare, signToken, where } from "fanfare/server";

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

const fanfare = new Fanfare<Events>();
void fanfare.emit("chat", { text: "hi" }, where`auth.plan == ${"pro"}`);
void fanfare.emit("chat", { text: "hi" }, { filter: "auth.plan == 'pro'" });
// @ts-expect-error: a filter is not a text, since values do not belong in it.
void fanfare.emit("chat", { text: "hi" }, "auth.plan == 'pro'");

const unset: string | undefined = undefined;
void signToken(unset, "ann", { can: { join: ["room-*"] }, ttl: 600 });
// @ts-expect-error: a life is a number of seconds.
void signToken(unset, "ann", { ttl: "10m" });
// @ts-expect-error: there is no such right.
void signToken(unset, "ann", { can: { jion: ["room-*"] } });
