// Made from docs/client-protocol.schema.json by scripts/types.mjs. Do not change it by hand.

/** A message from a client. */
export type ClientMessage = Auth | Ping | Join | Leave | Update | Members | Send | Broadcast | Publish | Call;

/** A message from the server. Events have no `op`. */
export type ServerMessage = Welcome | Event | BinaryEvent | MemberChanged | MembersChanged | Joined | Left | Ack | AuthAck | JoinAck | MembersAck | SendAck | CallAck | Refusal | Pong | Bye;

/** The id of a message, which its answer carries: a number, or a string of up to 64 bytes of JSON. */
export type Id = number | string;

/** The name of a channel. */
export type ChannelName = string;

/** The name of an event, 1 to 128 bytes. */
export type EventName = string;

/** The id of a connection. */
export type ConnectionId = string;

/** A user: the `sub` of a token, 1 to 256 bytes. */
export type UserName = string;

/** The number of an event in a channel with history, from 1 on and without gaps. 0 stands before the first. */
export type Offset = number;

/** The life of a channel's numbering, within which offsets count. */
export type Epoch = string;

/** The last event of a channel that a client has. */
export interface Since {
  /** The epoch of `offset`. Absent: the present one. */
  readonly epoch?: Epoch | undefined;
  readonly offset: Offset;
}

/** The users, connections and devices that do not get an event. A list has at most 10,000 names. */
export interface Except {
  /** All connections of these users. */
  readonly users?: readonly string[] | undefined;
  /** These connections. */
  readonly connections?: readonly string[] | undefined;
  /** All connections of these devices. */
  readonly devices?: readonly string[] | undefined;
}

/** The client that sent an event. */
export interface Sender {
  readonly connection: ConnectionId;
  /** Its user. `null`: anonymous. */
  readonly user: UserName | null;
}

/** A member of a channel: a connection. */
export interface Member {
  readonly id: ConnectionId;
  /** Its user. `null`: anonymous. */
  readonly user: UserName | null;
  /** Its profile, if it has one. */
  readonly data?: Record<string, unknown> | undefined;
}

/** How to come back after an end that was not announced, in milliseconds. */
export interface Reconnect {
  /** The first wait. It doubles with each attempt, with jitter. */
  readonly min_ms: number;
  /** The longest wait. */
  readonly max_ms: number;
  /** How long the connection can be resumed. */
  readonly resume_ms: number;
}

/** A field that every message of a client may have. */
export interface Request {
  /** With it the message gets one `ack` or one `error` that carries it. Without it only what is refused is answered. */
  readonly id?: Id | undefined;
}

/** Authenticates, or renews: replaces claims, user and rights in one step. */
export interface Auth extends Request {
  readonly op: "auth";
  /** The client's token. */
  readonly token: string;
}

/** Asks for a sign of life, for clients that cannot send WebSocket pings. */
export interface Ping extends Request {
  readonly op: "ping";
}

/** Becomes a member of a channel. */
export interface Join extends Request {
  readonly op: "join";
  readonly channel: ChannelName;
  /** Whether the ack has the first page of members, and notices of the others follow. */
  readonly members?: boolean | undefined;
  /** Asks for the events after this one. */
  readonly since?: Since | undefined;
}

/** Leaves a channel. */
export interface Leave extends Request {
  readonly op: "leave";
  readonly channel: ChannelName;
}

/** Replaces the client's profile. */
export interface Update extends Request {
  readonly op: "update";
  /** The profile. `null` removes it. */
  readonly data: Record<string, unknown> | null;
}

/** Asks for a page of the members of a channel. It needs `id`. */
export interface Members extends Request {
  /** With it the message gets one `ack` or one `error` that carries it. Without it only what is refused is answered. */
  readonly id: Id;
  readonly op: "members";
  readonly channel: ChannelName;
  /** The `cursor` of the page before. */
  readonly cursor?: string | undefined;
  /** How many members the page has at most. Absent: 100. */
  readonly limit?: number | undefined;
}

/** The fields of every message that sends an event. */
export interface Sending extends Request {
  readonly event: EventName;
  /** Any JSON, nested at most 128 levels deep. Absent: `null`, or the bytes of a binary frame. */
  readonly data?: unknown | undefined;
  /** Whether the connection gets its own event, if it is meant. Absent: as `echo` said in the handshake. */
  readonly echo?: boolean | undefined;
  readonly except?: Except | undefined;
}

/** Sends an event to the members of a channel. The sender need not be one. */
export interface Send extends Sending {
  readonly op: "send";
  readonly channel: ChannelName;
}

/** Sends an event to everyone of the app. */
export interface Broadcast extends Sending {
  readonly op: "broadcast";
}

/** Sends an event to all connections of some users. */
export interface Publish extends Sending {
  readonly op: "publish";
  /** The users. */
  readonly users: readonly string[];
}

/** Calls a function of the program that embeds the server. Others refuse it with `no_functions`. Calls run at the same time, so that their answers may come in another order. */
export interface Call extends Request {
  readonly op: "call";
  /** The name of the function. */
  readonly name: string;
  /** The argument of the function. Absent: `null`. */
  readonly data?: unknown | undefined;
}

/** The first message of every connection that is let in. */
export interface Welcome {
  readonly op: "welcome";
  readonly connection: ConnectionId;
  /** The user of the connection. `null`: anonymous. */
  readonly user: UserName | null;
  /** Seconds between two pings of the server. */
  readonly heartbeat: number;
  /** Whether the connection took the place of an earlier one. Absent: it did not ask to. */
  readonly resumed?: boolean | undefined;
  readonly reconnect: Reconnect;
}

/** An event whose data are the bytes after this header of a binary frame. */
export interface BinaryEvent extends EventHeader {
}

/** An event with its data as they were sent. */
export interface Event extends EventHeader {
  /** Any JSON. Several arguments are an array. */
  readonly data: unknown;
}

/** An event without its data. */
export interface EventHeader {
  readonly event: EventName;
  /** The channel that it was sent to. Absent: it was sent to users, to everyone, or by a filter. */
  readonly channel?: ChannelName | undefined;
  /** The client that sent it. Absent: a function did. */
  readonly from?: Sender | undefined;
  /** Its number in a channel with history. Absent: the channel has none. */
  readonly offset?: Offset | undefined;
  /** Its id, if it was stored for the user. It may arrive again with the same id. */
  readonly id?: string | undefined;
}

/** Another member of a channel came, changed or went. */
export interface MemberChanged {
  readonly op: "member";
  /** `updated`: its profile, its user or its connection changed. */
  readonly kind: "joined" | "left" | "updated";
  readonly channel: ChannelName;
  readonly member: Member;
  /** How many connections its user has in the channel now. An anonymous connection counts as a user of its own. */
  readonly user_connections: number;
  /** With `updated`: the connection whose place the member took. */
  readonly previous?: ConnectionId | undefined;
}

/** Several members of a channel changed: more than the server reports one by one. A client that keeps a list fetches it again. */
export interface MembersChanged {
  readonly op: "members";
  readonly channel: ChannelName;
  /** Members that came. */
  readonly joined: number;
  /** Members that went. */
  readonly left: number;
  /** Members that changed. */
  readonly updated: number;
  /** Members that there are now. */
  readonly count: number;
  /** Different users among them. */
  readonly users: number;
}

/** The connection is a member of a channel without having asked by a message, or the history of one of its channels goes on in another epoch. */
export interface Joined {
  readonly op: "joined";
  readonly channel: ChannelName;
  readonly epoch?: Epoch | undefined;
  readonly offset?: Offset | undefined;
  /** With another epoch: whether the member has missed nothing. */
  readonly recovered?: boolean | undefined;
}

/** The connection is no longer a member of a channel, without having asked. */
export interface Left {
  readonly op: "left";
  readonly channel: ChannelName;
}

/** The fields of every ack. */
export interface Answer {
  readonly op: "ack";
  /** The `id` of the message. */
  readonly id: Id;
}

/** A page of members. */
export interface Page {
  /** The members of the page. */
  readonly members?: readonly Member[] | undefined;
  /** How many connections are members. */
  readonly count?: number | undefined;
  /** Different users among them. */
  readonly users?: number | undefined;
  /** Asks for the next page. Absent: this is the last one. */
  readonly cursor?: string | undefined;
}

/** The server took a `ping`, `leave`, `update`, `broadcast` or `publish`. */
export interface Ack extends Answer {
}

/** The server took an `auth`. */
export interface AuthAck extends Answer {
  readonly user: UserName;
  /** When the token ends, in Unix seconds. Absent: it does not. */
  readonly expires_at?: number | undefined;
}

/** The connection is a member from now on. */
export interface JoinAck extends Answer, Page {
  readonly epoch?: Epoch | undefined;
  /** The number of the newest event. Absent, with `epoch`: the channel keeps no history. */
  readonly offset?: Offset | undefined;
  /** With `since`: whether all that was missed follows. */
  readonly recovered?: boolean | undefined;
}

/** A page of members. */
export interface MembersAck extends Answer, Page {
  /** The members of the page. */
  readonly members: readonly Member[];
  /** How many connections are members. */
  readonly count: number;
  /** Different users among them. */
  readonly users: number;
}

/** The event was sent to the channel. */
export interface SendAck extends Answer {
  readonly epoch?: Epoch | undefined;
  /** The number of the event. Absent, with `epoch`: the channel keeps no history. */
  readonly offset?: Offset | undefined;
}

/** The function returned. */
export interface CallAck extends Answer {
  /** What the function returned. */
  readonly data: unknown;
}

/** The server refused a message. The connection stays. */
export interface Refusal {
  readonly op: "error";
  /** The `id` of the message. Absent: it had none, or a channel of the handshake was refused. */
  readonly id?: Id | undefined;
  /** The reason, for programs. A function that was called may have codes of its own. */
  readonly code: ErrorCode | string;
  /** The reason, for people. */
  readonly message: string;
}

/** The reason of a refusal. Later versions may add codes. */
export type ErrorCode = "bad_message" | "unknown_op" | "bad_channel" | "event_name_length" | "event_name_reserved" | "data_too_deep" | "unauthorized" | "token_expired" | "token_superseded" | "forbidden" | "auth_off" | "rate_limited" | "too_many_channels" | "members_off" | "profile_too_large" | "bad_profile" | "no_functions" | "bad_data" | "too_many_calls" | "call_timeout" | "answer_too_large" | "no_users" | "too_many_names" | "name_too_long" | "too_much_to_store" | "busy" | "history_unavailable" | "history_over_quota" | "bus_down" | "internal";

/** The answer to a `ping` without `id`. */
export interface Pong {
  readonly op: "pong";
}

/** Announces a close frame with the same code. */
export interface Bye {
  readonly op: "bye";
  /** The close code. */
  readonly code: number;
  /** The reason, for people. */
  readonly reason: string;
  /** When to come back, in milliseconds. */
  readonly reconnect_in_ms: number;
}
