// What the types of the hooks promise. It is compiled and never run.
import { createClient } from "fanfare";
import { useChannel, useConnection, useEvent, useMembers } from "fanfare/react";

const client = createClient<{ chat: { text: string } }>("wss://example.com");

export function Page({ signedIn }: { signedIn: boolean }) {
    const mine = signedIn ? client : null;
    const { status, reason } = useConnection(mine);
    const { channel, error } = useChannel(mine, "room");
    const members = useMembers(mine, "room");
    useEvent(mine, "chat", ({ text }) => void text.length, { channel: "room" });
    // @ts-expect-error: there is no such event.
    useEvent(mine, "chatt", () => {});
    void channel?.send("chat", { text: "hi" });
    return [status, reason, error?.code, members.length];
}
