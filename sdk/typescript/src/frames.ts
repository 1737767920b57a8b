import type { Broadcast, ClientMessage, Publish, Send, ServerMessage } from "./protocol.js";

type Names<T> = T extends unknown ? keyof T : never;
type Field<T, K> = T extends unknown ? (K extends keyof T ? T[K] : never) : never;
type Without<T, K extends string> = T extends unknown ? Omit<T, K> : never;

/** What the server sends. Every field may be absent, since other versions of the server may send other frames. */
export type Frame = { [K in Names<ServerMessage>]?: Field<ServerMessage, K> };

/** What the client sends, less the fields that are added on the way. */
export type Outgoing = Without<ClientMessage, "id" | "data">;

/** Whom an event is for, and its name. */
export type Target = Without<Send | Broadcast | Publish, "id" | "data" | "echo" | "except">;

/** The frame of a message. `data` is passed apart, since bytes go after the header. */
export function encode(message: object, data?: unknown): string | Uint8Array {
  const bytes =
    data instanceof ArrayBuffer
      ? new Uint8Array(data)
      : ArrayBuffer.isView(data) && new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  if (!bytes) return JSON.stringify({ ...message, data });

  const header = new TextEncoder().encode(JSON.stringify(message));
  const frame = new Uint8Array(3 + header.length + bytes.length);
  frame.set([1, header.length >> 8, header.length]);
  frame.set(header, 3);
  frame.set(bytes, 3 + header.length);
  return frame;
}

/** The message of a frame. Throws for what is no JSON. */
export function decode(data: unknown): Frame {
  if (typeof data === "string") return JSON.parse(data);

  const bytes = new Uint8Array(data as ArrayBuffer);
  const start = 3 + bytes[1]! * 256 + bytes[2]!;
  const frame: Frame = JSON.parse(new TextDecoder().decode(bytes.subarray(3, start)));
  frame.data = bytes.subarray(start);
  return frame;
}
