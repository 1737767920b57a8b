/** The function side of Fanfare: the HTTP API for any runtime with `fetch` and WebCrypto. */
import type {
  BatchItem,
  BatchResult,
  Broadcast,
  Channel,
  Connection,
  Disconnect,
  Disconnected,
  Dispatch,
  Emit,
  Explanation,
  Joined,
  Left,
  Member,
  Membership,
  Operations,
  Problem,
  Publish,
  Receipt,
  Rights,
  Send,
  StoredEvent,
  Token,
  TokenRequest,
  User,
} from "./api.js";
import { FanfareError } from "./error.js";
import type { AnyEvents, EventName } from "./types.js";

export type * from "./api.js";
export { FanfareError };

/** A filter and the values that it names. Both are fields of every call that takes a filter. */
export interface Where {
  readonly filter: string;
  readonly params: Record<string, unknown>;
}

/** A part of a filter made by `where`, which another one can contain. */
class Part implements Where {
  declare readonly filter: string;
  declare readonly params: Record<string, unknown>;
  readonly #texts: readonly string[];
  readonly #values: readonly unknown[];

  constructor(texts: readonly string[], values: readonly unknown[]) {
    this.#texts = texts;
    this.#values = values;

    // Enumerable, so that `{ ...where`…` }` has them.
    const params: Record<string, unknown> = {};
    Object.assign(this, { filter: this.#render(params), params });
  }

  #render(params: Record<string, unknown>): string {
    return this.#texts.reduce((text, next, index) => {
      const value = this.#values[index - 1];
      if (value instanceof Part) return `${text}(${value.#render(params)})${next}`;

      // Such a value comes from a variable that is empty by mistake, and would mean other connections.
      if (value == null)
        throw new TypeError(`value ${index} of the filter is ${value}: write null into the filter if you mean it`);
      const name = `p${Object.keys(params).length}`;
      params[name] = value;
      return `${text}params.${name}${next}`;
    });
  }
}

/**
 * A filter with values. They are bound as params and never become part of the text:
 *
 * ```ts
 * await fanfare.emit("alert", "Hello", where`auth.tenant == ${tenant} && "admin" in auth.roles`);
 * ```
 *
 * A value may itself be made by `where`. `null` and `undefined` throw, since `auth.tenant == null` is true for everyone
 * without a tenant.
 */
export function where(texts: TemplateStringsArray, ...values: unknown[]): Where {
  return new Part(texts, values);
}

/** A refusal of the server: a problem document (RFC 9457). */
export class ApiError extends FanfareError {
  override readonly name = "ApiError" as never;
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

  constructor(problem: Partial<Problem>, status: number, retryAfter?: number) {
    const { code = "unknown", detail = `the server answered ${status}`, excerpt } = problem;
    super(code, excerpt ? `${detail}\n${excerpt}` : detail);
    this.status = status;
    this.detail = detail;
    this.excerpt = excerpt;
    this.offset = problem.offset;
    this.length = problem.length;
    this.retryAfter = retryAfter;
  }
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

const sleep = (ms: number, signal: AbortSignal | undefined) =>
  new Promise<void>((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal!.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, ms);
    signal?.addEventListener("abort", abort);
  });

const base64 = (bytes: Uint8Array): string => {
  let text = "";
  // More arguments than this overflow the stack of some runtimes.
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
};

/** `data`, or bytes as `data_base64`. */
export function dataOf(data: unknown): { data?: unknown; data_base64?: string } {
  if (data instanceof ArrayBuffer) return { data_base64: base64(new Uint8Array(data)) };
  if (ArrayBuffer.isView(data))
    return { data_base64: base64(new Uint8Array(data.buffer, data.byteOffset, data.byteLength)) };
  return data === undefined ? {} : { data };
}

/** The HTTP API of a server. `E` maps names of events to the types of their data. */
export class Fanfare<E extends object = AnyEvents> {
  readonly #options: FanfareOptions;

  constructor(options: FanfareOptions = {}) {
    this.#options = options;
  }

  /** Sends an event to every connection that `to`, `filter` and `except` describe. */
  emit<K extends EventName<E>>(event: K, data?: E[K], options: EmitOptions = {}): Promise<Receipt> {
    return this.#publish("emit", event, data, options);
  }

  /** Sends an event to all connections of one user or several. */
  publish<K extends EventName<E>>(
    users: string | readonly string[],
    event: K,
    data?: E[K],
    options: ToUsersOptions = {},
  ): Promise<Receipt> {
    return this.#publish("publish", event, data, options, typeof users === "string" ? { user: users } : { users });
  }

  /** Sends an event to the members of one channel or several. */
  send<K extends EventName<E>>(
    channels: string | readonly string[],
    event: K,
    data?: E[K],
    options: ToChannelsOptions = {},
  ): Promise<Receipt> {
    const target = typeof channels === "string" ? { channel: channels } : { channels };
    return this.#publish("send", event, data, options, target);
  }

  /** Sends an event to everyone. */
  broadcast<K extends EventName<E>>(event: K, data?: E[K], options: BroadcastOptions = {}): Promise<Receipt> {
    return this.#publish("broadcast", event, data, options);
  }

  /** Sends an event to users, or to everyone by `["*"]`. */
  dispatch<K extends EventName<E>>(
    recipients: readonly string[],
    event: K,
    data?: E[K],
    options: DispatchOptions = {},
  ): Promise<Receipt> {
    return this.#publish("dispatch", event, data, options, { recipients });
  }

  /** Makes up to 100 publishing calls in one request. One that fails stops no other. */
  async batch(items: readonly BatchItem[], options: PublishOptions = {}): Promise<readonly BatchResult[]> {
    const { idempotencyKey, ...call } = options;
    return (await this.#post("batch", { items }, call, idempotencyKey ?? crypto.randomUUID())).results;
  }

  /** Shows how a filter is answered and whom it matches. Sends nothing. */
  explain(filter: Where | string, options: { readonly connection?: string } & CallOptions = {}): Promise<Explanation> {
    const [fields, call] = split(options);
    return this.#post("explain", { ...(typeof filter === "string" ? { filter } : filter), ...fields }, call);
  }

  /** The connections, all of them or those that match a filter. */
  async *connections(
    options: Partial<Where> & { readonly limit?: number } & CallOptions = {},
  ): AsyncGenerator<Connection, void, undefined> {
    const [{ params, ...query }, call] = split(options);
    const all = { ...query, params: params && JSON.stringify(params) };
    for await (const page of this.#pages<Operations["connections"]["result"]>("/v1/connections", all, call))
      yield* page.connections;
  }

  /** One connection. */
  connection(id: string, options: CallOptions = {}): Promise<Connection> {
    return this.request("GET", `/v1/connections/${encodeURIComponent(id)}`, undefined, options);
  }

  /** Whether a user is online. */
  user(user: string, options: CallOptions = {}): Promise<User> {
    return this.request("GET", `/v1/users/${encodeURIComponent(user)}`, undefined, options);
  }

  /** The channels with members, in the order of their names. */
  async *channels(
    options: { readonly prefix?: string; readonly limit?: number } & CallOptions = {},
  ): AsyncGenerator<Channel, void, undefined> {
    const [query, call] = split(options);
    for await (const page of this.#pages<Operations["channels"]["result"]>("/v1/channels", query, call))
      yield* page.channels;
  }

  /** How many members a channel has, and where its history stands. */
  channel(channel: string, options: CallOptions = {}): Promise<Channel> {
    return this.request("GET", `/v1/channels/${encodeURIComponent(channel)}`, undefined, options);
  }

  /** The members of a channel. */
  async *members(
    channel: string,
    options: { readonly limit?: number } & CallOptions = {},
  ): AsyncGenerator<Member, void, undefined> {
    const [query, call] = split(options);
    const path = `/v1/channels/${encodeURIComponent(channel)}/members`;
    for await (const page of this.#pages<Operations["members"]["result"]>(path, query, call)) yield* page.members;
  }

  /** The stored events of a channel, the oldest first. */
  async *history(
    channel: string,
    options: { readonly after?: number; readonly limit?: number } & CallOptions = {},
  ): AsyncGenerator<StoredEvent, void, undefined> {
    const [query, call] = split(options);
    const path = `/v1/channels/${encodeURIComponent(channel)}/history`;
    for await (const page of this.#pages<Operations["history"]["result"]>(path, query, call, "after"))
      yield* page.events;
  }

  /** Puts connections into a channel. */
  join(channel: string, target: TargetOptions): Promise<Joined> {
    const [fields, call] = split(target);
    return this.#post("join", { channel, ...fields }, call);
  }

  /** Takes connections out of a channel. */
  leave(channel: string, target: TargetOptions): Promise<Left> {
    const [fields, call] = split(target);
    return this.#post("leave", { channel, ...fields }, call);
  }

  /** Closes connections. The range of `code` says whether clients come back. */
  disconnect(target: Disconnect & CallOptions): Promise<Disconnected> {
    const [fields, call] = split(target);
    return this.#post("disconnect", fields, call);
  }

  /** Lets the server sign a token for a client. `signToken` does the same without a request. */
  token(user: string, options: Omit<TokenRequest, "user"> & CallOptions = {}): Promise<Token> {
    const [fields, call] = split(options);
    return this.#post("tokens", { user, ...fields }, call);
  }

  /**
   * Any call, for what has no method here. It is repeated after a network error, a timeout, a 500 and a 503, and rejects
   * with an `ApiError`, or with a `FanfareError` of the code `network` or `timeout`.
   */
  async request<T>(
    method: string,
    path: string,
    body?: unknown,
    options: CallOptions & { readonly headers?: Record<string, string> } = {},
  ): Promise<T> {
    const { url = "http://127.0.0.1:7070", key, retries: often = 2 } = this.#options;
    const { signal, retries = often } = options;
    const headers: Record<string, string> = { ...options.headers };
    if (key) headers["Authorization"] = `Bearer ${key}`;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const init = { method, headers, ...(body !== undefined && { body: JSON.stringify(body) }) };

    for (let attempt = 0; ; attempt++) {
      signal?.throwIfAborted();
      let failure: FanfareError;
      let pause = 200 * 2 ** attempt;

      try {
        const response = await this.#fetch(`${url.replace(/\/+$/, "")}${path}`, init, options);
        if (response.ok) return response.body as T;
        failure = response.error;
        if (response.status !== 500 && response.status !== 503) throw failure;
        pause = (response.error.retryAfter ?? 0) * 1000 || pause;
      } catch (error) {
        signal?.throwIfAborted();
        if (!(error instanceof FanfareError) || error instanceof ApiError) throw error;
        failure = error;
      }

      if (attempt >= retries) throw failure;
      await sleep(pause * (0.5 + Math.random() / 2), signal);
    }
  }

  async #fetch(url: string, init: RequestInit, options: CallOptions): Promise<Answer> {
    const { timeout: limit = 5000 } = this.#options;
    const { signal, timeout = limit } = options;

    // AbortSignal.any is missing in some edge runtimes.
    const controller = new AbortController();
    const abort = () => controller.abort(signal?.reason);
    signal?.addEventListener("abort", abort);
    const late = new FanfareError("timeout", `no answer from ${url} in ${timeout} ms`);
    const timer = setTimeout(() => controller.abort(late), timeout);

    try {
      const send = this.#options.fetch ?? fetch;
      const response = await send(url, { ...init, signal: controller.signal });
      const text = await response.text();
      if (response.ok) return { ok: true, body: JSON.parse(text) };

      const after = Number(response.headers.get("retry-after")) || undefined;
      return { ok: false, status: response.status, error: new ApiError(problemOf(text), response.status, after) };
    } catch (error) {
      if (controller.signal.aborted) throw controller.signal.reason;
      throw Object.assign(new FanfareError("network", `no answer from ${url}: ${error}`), { cause: error });
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
  }

  #publish(
    operation: "emit" | "publish" | "send" | "broadcast" | "dispatch",
    event: string,
    data: unknown,
    options: PublishOptions,
    target: object = {},
  ): Promise<Receipt> {
    const [{ idempotencyKey = crypto.randomUUID(), ...fields }, call] = split(options);
    return this.#post(operation, { ...target, ...fields, event, ...dataOf(data) } as never, call, idempotencyKey);
  }

  #post<K extends keyof Operations>(
    operation: K,
    body: Operations[K] extends { readonly body: infer B } ? B : never,
    call: CallOptions,
    idempotencyKey?: string,
  ): Promise<Operations[K]["result"]> {
    const headers = idempotencyKey === undefined ? {} : { "Idempotency-Key": idempotencyKey };
    return this.request("POST", `/v1/${operation}`, body, { ...call, headers });
  }

  async *#pages<R extends object>(
    path: string,
    query: object,
    call: CallOptions,
    next = "cursor",
  ): AsyncGenerator<R, void, undefined> {
    const search = new URLSearchParams();
    for (const [name, value] of Object.entries(query)) if (value !== undefined) search.set(name, `${value}`);

    for (;;) {
      const page = await this.request<R>("GET", `${path}?${search}`, undefined, call);
      yield page;

      const { cursor } = page as { cursor?: string | number };
      if (cursor === undefined) return;
      search.set(next, `${cursor}`);
    }
  }
}

type Answer =
  | { readonly ok: true; readonly body: unknown }
  | { readonly ok: false; readonly status: number; readonly error: ApiError };

/** A proxy may answer with something else than a problem document. */
function problemOf(text: string): Partial<Problem> {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
}

/** The fields of a body, and the options of its call. */
function split<T extends CallOptions>(options: T): [Omit<T, keyof CallOptions>, CallOptions] {
  const { signal, timeout, retries, ...fields } = options;
  return [fields, { signal, timeout, retries }];
}

/** The server that `FANFARE_URL` and `FANFARE_API_KEY` name. Workers pass their `env`. */
export function fromEnv<E extends object = AnyEvents>(
  env: Record<string, unknown> = (globalThis as { process?: { env?: Record<string, unknown> } }).process?.env ?? {},
  options: FanfareOptions = {},
): Fanfare<E> {
  const { FANFARE_URL: url, FANFARE_API_KEY: key } = env as Record<string, string | undefined>;
  return new Fanfare<E>({ url, key, ...options });
}

/** What a token says. */
export interface TokenOptions {
  /** Further claims, which filters see as `auth.*`. */
  readonly claims?: Record<string, unknown>;
  /** What the client may do. */
  readonly can?: Rights;
  /** The life of the token in seconds. Default 600. */
  readonly ttl?: number;
}

/**
 * Signs a token for a client with the secret that the server has as `FANFARE_TOKEN_SECRET` (HS256).
 *
 * ```ts
 * const token = await signToken(secret, "ann", { claims: { plan: "pro" }, can: { join: ["room-*"] } });
 * ```
 */
export async function signToken(secret: string, user: string, options: TokenOptions = {}): Promise<string> {
  const bytes = new TextEncoder().encode(secret ?? "");
  if (bytes.length < 32) throw new FanfareError("bad_secret", "the token secret must have at least 32 bytes");
  // The claim would be left out, and the token would belong to nobody.
  if (!user) throw new FanfareError("bad_user", "a token needs a user");

  const url = (data: Uint8Array) => base64(data).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  const encode = (value: unknown) => url(new TextEncoder().encode(JSON.stringify(value)));
  const { claims, can, ttl = 600 } = options;
  const iat = Math.floor(Date.now() / 1000);
  const text = `${encode({ alg: "HS256", typ: "JWT" })}.${encode({ ...claims, can, sub: user, iat, exp: iat + ttl })}`;

  const algorithm = { name: "HMAC", hash: "SHA-256" };
  const key = await crypto.subtle.importKey("raw", bytes, algorithm, false, ["sign"]);
  const signature = await crypto.subtle.sign(algorithm, key, new TextEncoder().encode(text));
  return `${text}.${url(new Uint8Array(signature))}`;
}
