import type { FanfareError } from "./error.js";

/** Names of events and the type of their data, where a program declares none. */
export type AnyEvents = Record<string, any>;

/** The name of an event of the map `E`. */
export type EventName<E extends object> = keyof E & string;

/** Arguments of a call that sends data of type `T`: none, one, or those of a tuple one by one. */
export type Args<T> = 0 extends 1 & T
  ? T[]
  : undefined extends T
    ? [data?: T]
    : T extends readonly unknown[]
      ? T | [data: T]
      : [data: T];

/** Arguments of a listener with `spread`. */
export type Spread<T> = T extends readonly unknown[] ? T : [data: T];

/** An event as it arrived. */
export interface Message<T = unknown, K extends string = string> {
  /** The event's name. */
  readonly event: K;
  /** What was sent. Several arguments are an array, bytes are a `Uint8Array`. */
  readonly data: T;
  /** The channel that it was sent to. */
  readonly channel?: string;
  /** The client that sent it. Absent: a function did. */
  readonly from?: { readonly connection: string; readonly user: string | null };
  /** Its number in a channel with history. */
  readonly offset?: number;
  /** Its id, if it was stored for the user. */
  readonly id?: string;
}

/** A member of a channel: a connection with its user and profile. */
export interface Member {
  /** The member's connection. */
  readonly id: string;
  /** Its user. `null`: anonymous. */
  readonly user: string | null;
  /** Its profile, if it has one. */
  readonly data?: unknown;
}

/** A place in a channel's history. It can be stored, and given to `join` as `since`. */
export interface Position {
  /** The life of the numbering. Absent: the present one. */
  readonly epoch?: string | undefined;
  /** The number of the newest event that arrived. */
  readonly offset: number;
}

/** What the server returns for a message that it took. */
export interface Ack {
  /** The epoch of `offset`. */
  readonly epoch?: string | undefined;
  /** The number of the event, if the channel keeps history. */
  readonly offset?: number | undefined;
}

/** Why the client is in its state. */
export type Reason =
  /** No call of `connect` yet. */
  | "created"
  /** `connect` was called. */
  | "connect"
  /** The wait is over. */
  | "retry"
  /** The network or the page came back, so the wait was cut short. */
  | "wake"
  /** The token is of another user, so that a new connection is needed. */
  | "user_changed"
  /** The server welcomed a new connection. */
  | "welcome"
  /** The server let this connection take the place of the lost one. */
  | "resumed"
  /** The connection ended, or could not be made. `code` and `detail` say more; 1006 is an end without a close frame. */
  | "lost"
  /** Nothing came from the server for too long. */
  | "silent"
  /** The token function failed or took too long. `error` is what it threw. */
  | "token_failed"
  /** The server refused the client for good. `code` and `detail` say why. */
  | "refused"
  /** The token function returned `null`: nobody is signed in. */
  | "signed_out"
  /** There is no WebSocket in this runtime, or the address cannot be used. `error` says more. */
  | "unusable"
  /** `close` was called. */
  | "closed";

/** The state of a client. Each change makes a new object. */
export interface State {
  /**
   * - `idle`: not connected yet.
   * - `connecting`: a token is fetched, or a connection is being made.
   * - `connected`: the server welcomed the client.
   * - `waiting`: not connected. The next attempt begins in `delay` milliseconds, or earlier when the page wakes.
   * - `closed`: not connected, and no attempt follows until `connect` is called.
   */
  readonly status: "idle" | "connecting" | "connected" | "waiting" | "closed";
  /** Why. */
  readonly reason: Reason;
  /** The close code, if a connection ended. */
  readonly code?: number;
  /** The close reason, if the server gave one. */
  readonly detail?: string;
  /** While `waiting`: milliseconds until the next attempt. */
  readonly delay?: number;
  /** While `connected`: the id of the connection. */
  readonly connection?: string;
  /** While `connected`: the user, or `null` if anonymous. */
  readonly user?: string | null;
  /** What was thrown, where a function of the program or of the runtime failed. */
  readonly error?: unknown;
}

/** The state of a channel. Each change makes a new object. */
export interface ChannelState {
  /**
   * - `waiting`: the client is not connected, or asks to join.
   * - `joined`: the client is a member.
   * - `left`: the client left, or was taken out.
   * - `refused`: the server refused. `error` says why.
   */
  readonly status: "waiting" | "joined" | "left" | "refused";
  /** With `joined`: false if events may have been missed, so that the program should fetch its state again. */
  readonly recovered?: boolean;
  /** With `refused`: why. */
  readonly error?: FanfareError;
}

/** Options of everything that registers a listener. */
export interface ListenOptions {
  /** Removes the listener when it is aborted. */
  readonly signal?: AbortSignal | undefined;
}

/** Options of `events`. */
export interface StreamOptions extends ListenOptions {
  /** How many events may wait. Default 256. */
  readonly buffer?: number;
  /** What happens past that: the iterator throws `overflow` (default), or the oldest event is dropped. */
  readonly overflow?: "error" | "drop-oldest";
}

/** Options of everything that sends. */
export interface SendOptions {
  /** Whether this connection gets its own event. Default: the client's `echo`. */
  readonly echo?: boolean;
  /** Who does not get the event. */
  readonly except?: {
    readonly users?: readonly string[];
    readonly connections?: readonly string[];
    readonly devices?: readonly string[];
  };
  /** Stops waiting. A message that was not sent yet is not sent any more. */
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds until the promise rejects with `timeout`, the time without a connection included. */
  readonly timeout?: number;
}

/** Options of `join`. */
export interface JoinOptions {
  /** Keeps a list of the members. */
  readonly members?: boolean;
  /** Replays what came after this position. `{ offset: 0 }` replays all that is stored. */
  readonly since?: Position;
  /** Leaves the channel when it is aborted. */
  readonly signal?: AbortSignal | undefined;
}

/** What `client.on`, `channel.on` and the like share. */
export interface Listening<E extends object> {
  /** Adds a listener. Returns a function that removes it. */
  on<K extends EventName<E>>(
    event: K,
    listener: (...args: Spread<E[K]>) => void,
    options: ListenOptions & { readonly spread: true },
  ): () => void;
  on<K extends EventName<E>>(
    event: K,
    listener: (data: E[K], message: Message<E[K], K>) => void,
    options?: ListenOptions,
  ): () => void;
  /** The same as `on`. */
  subscribe: Listening<E>["on"];
  /** Adds a listener that is removed before its first call. */
  once: Listening<E>["on"];
  /** Adds a listener for every event. */
  onAny(listener: (message: Message<E[EventName<E>], EventName<E>>) => void, options?: ListenOptions): () => void;
  /** Removes a listener, all listeners of an event, or all listeners of all events. */
  off(event?: EventName<E>, listener?: (...args: never[]) => void): void;
  /** Removes a listener for every event, or all of them. */
  offAny(listener?: (...args: never[]) => void): void;
  /** The listeners of an event, or of all events. */
  listeners(event?: EventName<E>): ((...args: never[]) => void)[];
  /**
   * The events from now on, or those of one name, for `for await`. The iterator ends when the client is closed, when
   * `signal` is aborted, and by `break`.
   */
  events<K extends EventName<E>>(event?: K, options?: StreamOptions): AsyncIterableIterator<Message<E[K], K>>;
}

/** What `client` and `client.with(…)` share. */
export interface Sending<E extends object> {
  /** Sends an event to the members of a channel. Several arguments arrive as an array. */
  send<K extends EventName<E>>(channel: string, event: K, ...args: Args<E[K]>): Promise<Ack>;
  /** Sends an event to everyone. */
  broadcast<K extends EventName<E>>(event: K, ...args: Args<E[K]>): Promise<Ack>;
  /** Sends an event to all connections of one user or several. */
  publish<K extends EventName<E>>(users: string | readonly string[], event: K, ...args: Args<E[K]>): Promise<Ack>;
  /** Replaces the profile, which members and filters see. It is sent again after a reconnect. */
  update(profile: object | null): Promise<Ack>;
  /** Calls a function. */
  call(name: string, data?: unknown): Promise<unknown>;
  /** The same calls with options. */
  with(options: SendOptions): Sending<E>;
}

/** A channel that the client joined. It is joined again after every reconnect, until it is left. */
export interface Channel<E extends object = AnyEvents> extends Listening<E> {
  /** The channel's name. */
  readonly name: string;
  /** Where it stands. The object changes with each change of state. */
  readonly state: ChannelState;
  /** Resolves when the client is a member for the first time. Rejects if it is refused, or left before. */
  readonly joined: Promise<void>;
  /** The members, if `join` asked for them. The array changes with each change of the list. */
  readonly members: readonly Member[];
  /** How many connections are members, if `join` asked for them. */
  readonly count: number;
  /** The position after the newest event, if the channel keeps history. */
  readonly position: Position | undefined;
  /** Adds a listener for changes of the state. */
  onState(listener: (state: ChannelState) => void, options?: ListenOptions): () => void;
  /** Adds a listener for changes of the members. */
  onMembers(listener: (members: readonly Member[]) => void, options?: ListenOptions): () => void;
  /** Sends an event to the members. */
  send<K extends EventName<E>>(event: K, ...args: Args<E[K]>): Promise<Ack>;
  /** Leaves the channel. */
  leave(): Promise<void>;
}

/** A client of one server. */
export interface Client<E extends object = AnyEvents> extends Listening<E>, Sending<E>, AsyncDisposable {
  /** The state. The object changes with each change of state. */
  readonly state: State;
  /**
   * Connects, and stays connected until `close`. Resolves when the server welcomed the client, and rejects when it is
   * closed before.
   */
  connect(): Promise<void>;
  /** Closes the connection. Channels are kept: `connect` joins them again. */
  close(): void;
  /** Fetches a new token and sends it, for example after the user's rights changed. */
  renew(): Promise<void>;
  /** Joins a channel. Returns the same object until the channel is left. */
  join(channel: string, options?: JoinOptions): Channel<E>;
  /** Leaves a channel. */
  leave(channel: string): Promise<void>;
  /** Fetches the members of a channel, page by page. */
  members(channel: string, options?: Pick<SendOptions, "signal" | "timeout">): Promise<Member[]>;
  /** Adds a listener for changes of the state. It is called once for each change. */
  onState(listener: (state: State) => void, options?: ListenOptions): () => void;
  /**
   * Adds a listener for failures that belong to no call: what a listener threw, a frame that cannot be read, data that a
   * schema refuses, a token that could not be renewed. Without a listener they go to `console.error`.
   */
  onError(listener: (error: unknown) => void, options?: ListenOptions): () => void;
}

/** The part of Standard Schema 1 that is used: zod, valibot and arktype have it. */
export interface StandardSchema<T = unknown> {
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => StandardResult<T> | Promise<StandardResult<T>>;
    readonly types?: { readonly input: unknown; readonly output: T } | undefined;
  };
}

/** What a schema returns. */
export type StandardResult<T> =
  { readonly value: T; readonly issues?: undefined } | { readonly issues: readonly { readonly message: string }[] };

/** What a token function returns: a token, or `null` if nobody is signed in. */
export type TokenSource = string | (() => string | null | undefined | Promise<string | null | undefined>);

/** A WebSocket constructor, for runtimes without one. */
export type WebSocketClass = new (url: string, protocols?: string) => unknown;

/** Options of `createClient`. */
export interface ClientOptions<E extends object = AnyEvents> {
  /**
   * The token, or a function that fetches one. The function is called for every connection and before a token ends,
   * never twice at the same time. It returns `null` if nobody is signed in, which closes the client.
   */
  readonly token?: TokenSource;
  /** A client key of the app. */
  readonly key?: string;
  /** The app, if the server has several and no key names one. */
  readonly app?: string;
  /** An id that senders can exclude. Default: a random one, in memory only. */
  readonly device?: string;
  /** Whether this client gets its own events. Default true. */
  readonly echo?: boolean;
  /** Whether it gets events that were stored for its user. Default true. */
  readonly store?: boolean;
  /** The WebSocket to use, for runtimes without one: `ws` in Node 20. */
  readonly WebSocket?: WebSocketClass;
  /** Milliseconds that a call, a token and a new connection may take. Default 10,000. */
  readonly timeout?: number;
  /** How many messages wait while there is no connection. Past that `send` rejects with `queue_full`. Default 100. */
  readonly queue?: number;
  /** Schemas that check the data of events. Data that do not fit are reported by `onError` and not delivered. */
  readonly schemas?: { readonly [K in keyof E]?: StandardSchema<E[K]> };
}
