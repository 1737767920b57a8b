// Needs the package redis: npm install redis
import { createClient } from "redis";

const redis = await createClient({ url: process.env.REDIS_URL ?? "redis://127.0.0.1:6379" }).connect();
const channel = `fanfare:${process.env.NAMESPACE ?? "default"}:default:dispatch`;
const act = (message) => redis.publish(channel, JSON.stringify(message));

await act({ event: "alert", data: "Hello", recipients: ["0", "1"] });
await act({ event: "news", data: { n: 1 }, recipients: ["*"], except: ["2"] });
await act({ call: "emit", event: "offer", filter: "auth.plan == params.plan", params: { plan: "free" } });
await act({ call: "send", channel: "room-1", event: "chat-message", data: { message: "Hi" } });
await act({ call: "disconnect", to: { users: ["2"] }, reason: "See you" });
await redis.close();
