/** The function side of Fanfare: the HTTP API for any runtime with `fetch` and WebCrypto. */
import type { BatchItem, BatchResult, Broadcast, Channel, Connection, Disconnect, Disconnected, Dispatch, Emit, Explanation, Joined, Left, Member, Membership, Operations, Problem, Publish, Receipt, ReplaceReceipt, Revoke, RevokeReceipt, Rights, Send, StoredEvent, Token, TokenRequest, User } from "./api.js";
import { FanfareError } from "./error.js";
import type { AnyEvents, EventName } from "./types.js";
export type * from "./api.js";
export { FanfareError };
/** A filter and the values that it names. Both are fields of every call that takes a filter. */
export interface Where {
    readonly filter: string;
    readonly params: Record<string, unknown>;
}
/**
 * A filter with values. They are bound as params and never become part of the text:
 *
 * ```ts
 * await fanfare.emit("alert", "Hello", where`auth.tenant == ${tenant} && "admin" in auth.roles`);
 * ```
 *
 * A value may itself be made by `where`. `null` and `undefined` throw, since `auth.tenant == null` is true for everyone
 * without a tenant. So does a value in quotes. The text is taken as it is written, backslashes included.
 */
export declare function where(texts: TemplateStringsArray, ...values: unknown[]): Where;
/** A refusal of the server: a problem document (RFC 9457). */
export declare class ApiError extends FanfareError {
    readonly name: never;
    /** The HTTP status. */
    readonly status: number;
    /** What happened, in a sentence. */
    readonly detail: string;
    /** For a filter: the line in question with carets under the mistake. */
    readonly excerpt: string | undefined;
    /** For a filter: where the mistake begins, in bytes. */
    readonly offset: number | undefined;
    /** For a filter: the length of the mistake in bytes. */
    readonly length: number | undefined;
    /** How many seconds to wait before another attempt, if the server said so. */
    readonly retryAfter: number | undefined;
    constructor(problem: Partial<Problem>, status: number, retryAfter?: number);
}
/** Options of every call. */
export interface CallOptions {
    /** Ends the call, and its repeats. */
    readonly signal?: AbortSignal | undefined;
    /** Milliseconds that one attempt may take. */
    readonly timeout?: number | undefined;
    /** How often the call is repeated. */
    readonly retries?: number | undefined;
}
/** Options of a call that publishes. */
export interface PublishOptions extends CallOptions {
    /** Names the call, so that a repeat by another process sends nothing. Default: a random one. */
    readonly idempotencyKey?: string | undefined;
}
type Without<T, K extends string> = Omit<T, K | "event" | "data" | "data_base64">;
/** Fields of `POST /v1/emit`, and options. `where` makes `filter` and `params`. */
export type EmitOptions = Without<Emit, never> & PublishOptions;
/** Fields of `POST /v1/publish`, and options. */
export type ToUsersOptions = Without<Publish, "user" | "users"> & PublishOptions;
/** Fields of `POST /v1/send`, and options. */
export type ToChannelsOptions = Without<Send, "channel" | "channels"> & PublishOptions;
/** Fields of `POST /v1/broadcast`, and options. */
export type BroadcastOptions = Without<Broadcast, never> & PublishOptions;
/** Fields of `POST /v1/dispatch`, and options. */
export type DispatchOptions = Without<Dispatch, "recipients"> & PublishOptions;
/** Whom `join`, `leave` and `disconnect` mean. */
export type TargetOptions = Omit<Membership, "channel"> & CallOptions;
/** What is needed to call a server. */
export interface FanfareOptions {
    /** The server's address. Default `http://127.0.0.1:7070`. */
    readonly url?: string | undefined;
    /** An API key. A server in development needs none. */
    readonly key?: string | undefined;
    /** Another `fetch`, such as that of a service binding. */
    readonly fetch?: ((url: string, init: RequestInit) => Promise<Response>) | undefined;
    /** Milliseconds that one attempt may take. Default 5,000. */
    readonly timeout?: number | undefined;
    /** How often a call is repeated after a network error, a timeout, a 500 or a 503. Default 2. */
    readonly retries?: number | undefined;
}
/** `data`, or bytes as `data_base64`. */
export declare function dataOf(data: unknown): {
    data?: unknown;
    data_base64?: string;
};
/** The HTTP API of a server. `E` maps names of events to the types of their data. */
export declare class Fanfare<E extends object = AnyEvents> {
    #private;
    constructor(options?: FanfareOptions);
    /** Sends an event to every connection that `to`, `filter` and `except` describe. */
    emit<K extends EventName<E>>(event: K, data?: E[K], options?: EmitOptions): Promise<Receipt>;
    /** Sends an event to all connections of one user or several. */
    publish<K extends EventName<E>>(users: string | readonly string[], event: K, data?: E[K], options?: ToUsersOptions): Promise<Receipt>;
    /** Sends an event to the members of one channel or several. */
    send<K extends EventName<E>>(channels: string | readonly string[], event: K, data?: E[K], options?: ToChannelsOptions): Promise<Receipt>;
    /** Sends an event to everyone. */
    broadcast<K extends EventName<E>>(event: K, data?: E[K], options?: BroadcastOptions): Promise<Receipt>;
    /** Sends an event to users, or to everyone by `["*"]`. */
    dispatch<K extends EventName<E>>(recipients: readonly string[], event: K, data?: E[K], options?: DispatchOptions): Promise<Receipt>;
    /** Makes up to 100 publishing calls in one request. One that fails stops no other. */
    batch(items: readonly BatchItem[], options?: PublishOptions): Promise<readonly BatchResult[]>;
    /** Shows how a filter is answered and whom it matches. Sends nothing. */
    explain(filter: Where | string, options?: {
        readonly connection?: string;
    } & CallOptions): Promise<Explanation>;
    /** The connections, all of them or those that match a filter. */
    connections(options?: Partial<Where> & {
        readonly limit?: number;
    } & CallOptions): AsyncGenerator<Connection, void, undefined>;
    /** One connection. */
    connection(id: string, options?: CallOptions): Promise<Connection>;
    /** Whether a user is online. */
    user(user: string, options?: CallOptions): Promise<User>;
    /** The channels with members, in the order of their names. */
    channels(options?: {
        readonly prefix?: string;
        readonly limit?: number;
    } & CallOptions): AsyncGenerator<Channel, void, undefined>;
    /** How many members a channel has, and where its history stands. */
    channel(channel: string, options?: CallOptions): Promise<Channel>;
    /** The members of a channel. */
    members(channel: string, options?: {
        readonly limit?: number;
    } & CallOptions): AsyncGenerator<Member, void, undefined>;
    /** The stored events of a channel, the oldest first. */
    history(channel: string, options?: {
        readonly after?: number;
        readonly limit?: number;
    } & CallOptions): AsyncGenerator<StoredEvent, void, undefined>;
    /** Puts connections into a channel. */
    join(channel: string, target: TargetOptions): Promise<Joined>;
    /** Takes connections out of a channel. */
    leave(channel: string, target: TargetOptions): Promise<Left>;
    /** Closes connections. The range of `code` says whether clients come back. */
    disconnect(target: Disconnect & CallOptions): Promise<Disconnected>;
    /** Lets the server sign a token for a client. `signToken` does the same without a request. */
    token(user: string, options?: Omit<TokenRequest, "user"> & CallOptions): Promise<Token>;
    /** Refuses the tokens that users have now, and closes the connections that came with them. */
    revoke(users: string | readonly string[], options?: Pick<Revoke, "before"> & CallOptions): Promise<RevokeReceipt>;
    /** Replaces the claims of a user's open connections, and with `can` what they may do. */
    auth(user: string, claims: Record<string, unknown>, options?: {
        readonly can?: Rights;
    } & CallOptions): Promise<ReplaceReceipt>;
    /** Whether the process is running. */
    healthz(options?: CallOptions): Promise<Operations["healthz"]["result"]>;
    /** Whether the process works, or should be restarted. Neither is an error. */
    livez(options?: CallOptions): Promise<Operations["livez"]["result"]>;
    /** Whether the node is ready for traffic. Neither is an error. */
    readyz(options?: Operations["readyz"]["query"] & CallOptions): Promise<Operations["readyz"]["result"]>;
    /** The description of the HTTP API, as OpenAPI. */
    openapi(options?: CallOptions): Promise<Record<string, unknown>>;
    /**
     * Any call, for what has no method here. It is repeated after a network error, a timeout, a 500 and a 503, unless the
     * server asks for a pause of more than 30 s. It rejects with an `ApiError`, or with a `FanfareError` of the code
     * `network`, `timeout`, `bad_url`, `bad_key` or `bad_path`.
     */
    request<T>(method: string, path: string, body?: unknown, options?: CallOptions & {
        readonly headers?: Record<string, string>;
    }): Promise<T>;
}
/**
 * The server that `FANFARE_URL` and `FANFARE_API_KEY` name. Of several keys the first is used, and an empty variable counts
 * as unset. Workers pass their `env`.
 */
export declare function fromEnv<E extends object = AnyEvents>(env?: Record<string, unknown>, options?: FanfareOptions): Fanfare<E>;
/** What a token says. */
export interface TokenOptions {
    /** Further claims, which filters see as `auth.*`. */
    readonly claims?: Record<string, unknown>;
    /** What the client may do. */
    readonly can?: Rights;
    /** The life of the token in seconds, as a whole number. Default 600. */
    readonly ttl?: number;
}
/**
 * Signs a token for a client with the secret that the server has as `FANFARE_TOKEN_SECRET` (HS256).
 *
 * ```ts
 * const token = await signToken(secret, "ann", { claims: { plan: "pro" }, can: { join: ["room-*"] } });
 * ```
 *
 * It rejects with a `FanfareError` of the code `bad_secret`, `bad_user`, `bad_claims`, `bad_can` or `bad_ttl`.
 */
export declare function signToken(secret: string | undefined, user: string, options?: TokenOptions): Promise<string>;
